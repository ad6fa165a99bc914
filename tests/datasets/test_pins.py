import shutil
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from faces import COUNTS, IN_ORDER, load, picture, write_folder
from PIL import Image

from benchmark.compose import cells_of
from benchmark.workbench import Workbench
from datasets import pins
from datasets.batches import Batches
from datasets.pins import decode, fingerprint_of, load_pins
from datasets.targets import find_class


def test_identities_are_classes_in_alphabetical_order(tmp_path, folder):
    (folder / "pins_Adam Ant" / "notes.txt").write_text("no image")
    (folder / "pins_").mkdir()
    (folder / "others").mkdir()
    data = load(tmp_path / "data", folder, "none")
    assert data.test is data.train
    assert data.class_names == data.fine_class_names == IN_ORDER
    assert torch.bincount(data.train.labels).tolist() == [COUNTS[name] for name in IN_ORDER]
    assert data.train.storage.shape == (29, 32, 32, 3)
    first = decode(folder / "pins_Adam Ant" / "Adam Ant_000.png")
    np.testing.assert_array_equal(data.train.storage[0], first)


def test_two_bilinear_resizes(tmp_path):
    (tmp_path / "x.png").write_bytes(picture(0))
    with Image.open(tmp_path / "x.png") as image:
        twice = image.resize((36, 36), Image.BILINEAR).resize((32, 32), Image.BILINEAR)
    np.testing.assert_array_equal(decode(tmp_path / "x.png"), np.asarray(twice))
    assert (decode(tmp_path / "x.png") != np.asarray(Image.open(tmp_path / "x.png").resize((32, 32)))).any()


def test_the_image_before_the_second_resize_has_an_array_file_of_its_own(tmp_path, folder):
    small = load(tmp_path / "data", folder)
    large = load_pins(tmp_path / "data", folder, "stratified", 0, size=36)
    assert large.train.storage.shape == (29, 36, 36, 3)
    assert len({small.fingerprint, large.fingerprint, fingerprint_of(tmp_path / "data", folder)}) == 2
    assert large.fingerprint == fingerprint_of(tmp_path / "data", folder, size=36)
    twice = [np.asarray(Image.fromarray(face).resize((32, 32), Image.BILINEAR)) for face in large.train.storage.numpy()]
    np.testing.assert_array_equal(small.train.storage, np.stack(twice))


def test_under_paper_faces_are_cropped_while_they_are_augmented(tmp_path, folder):
    def bench(*options):
        (cell,) = cells_of(["dataset=pins", f"dataset.load.folder={folder}", f"data_dir={tmp_path}", *options])
        return Workbench(cell)

    paper, strict, cropped = (
        bench("protocol=paper"),
        bench("protocol=strict"),
        bench("protocol=paper", "switched=pins_crop"),
    )
    large = paper.dataset.train.storage
    assert paper.cell.fingerprint == paper.dataset.fingerprint != strict.dataset.fingerprint == strict.cell.fingerprint
    assert large.shape[1:3] == (36, 36)
    assert (paper.recipe.augmentation.crop, strict.recipe.augmentation.crop) == (32, None)
    batches = Batches(paper.dataset.train, 29, paper.preprocessing, torch.Generator(), paper.recipe.augmentation)
    assert next(iter(batches))[0].shape == (29, 3, 32, 32)
    whole = Batches(paper.dataset.train, 29, replace(paper.preprocessing, size=None))
    once = torch.nn.functional.interpolate(next(iter(whole))[0], size=(32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(next(iter(Batches(paper.dataset.train, 29, paper.preprocessing)))[0], once)
    for other in (strict, cropped):
        assert other.dataset.train.storage.shape[1:3] == (32, 32)
        assert other.preprocessing.size is None
        assert "absent" not in str(other.cell.scientific)
        assert not {"size", "crop"} & {
            *other.cell.scientific["dataset"],
            *other.cell.scientific["original"]["recipe"]["augmentation"],
        }


def test_every_mode_becomes_rgb(tmp_path):
    for mode, kind in (("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")):
        (tmp_path / "x").write_bytes(picture(0, mode, kind))
        assert decode(tmp_path / "x").shape == (32, 32, 3)


def test_images_are_decoded_once_wherever_they_lie_and_again_if_they_change(tmp_path, folder, monkeypatch):
    data = tmp_path / "data"
    first = fingerprint_of(data, folder)
    moved = shutil.copytree(folder, tmp_path / "other" / "place")
    with monkeypatch.context() as patched:
        patched.setattr(pins, "decode", None)
        assert {load(data, place).fingerprint for place in (folder, folder.parent, moved)} == {first}
    assert len(list(data.glob("*.npz"))) == 1
    (folder / "pins_Adam Ant" / "Adam Ant_000.png").write_bytes(picture(999))
    changed = fingerprint_of(data, folder)
    assert len(list(data.glob("*.npz"))) == 2
    (folder / "pins_Adam Ant").rename(folder / "pins_Adam Bee")
    assert len({first, changed, fingerprint_of(data, folder)}) == 3


def test_the_stratified_split_is_fixed_for_good_by_its_seed(tmp_path, folder):
    data = load(tmp_path / "data", folder)
    assert data.test.index.tolist() == [3, 6, 10, 12, 26]  # the numbers of results rest on this draw
    assert len(data.train) == 24
    assert data.train.storage is data.test.storage
    assert not torch.equal(load(tmp_path / "data", folder, split_seed=1).test.index, data.test.index)


BAD_FOLDERS = {
    "missing": (lambda folder: shutil.rmtree(folder), "to be a folder, but"),
    "no identities": (lambda folder: [path.rename(folder / path.name[5:]) for path in folder.iterdir()], "make 0"),
    "two sets": (lambda folder: shutil.copytree(folder, folder / "copy"), "make 2"),
    "empty identity": (lambda folder: (folder / "pins_Nobody").mkdir(), "pins_Nobody, but it holds none"),
    "one identity": (
        lambda folder: [shutil.rmtree(folder / f"pins_{name}") for name in IN_ORDER[1:]],
        "two identities",
    ),
    "one image": (lambda folder: write_folder(folder, {"pins_Once/1.png": picture(0)}), "2 images of 'Once'"),
    "bad image": (
        lambda folder: write_folder(folder, {"pins_Adam Ant/bad.jpg": picture(0, kind="JPEG")[:-200]}),
        "bad.jpg to be an image",
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folder(name, tmp_path, folder):
    change, expected = BAD_FOLDERS[name]
    change(folder)
    with pytest.raises(ValueError, match=r"^Expected") as caught:
        load(tmp_path / "data", folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_array_file_of_something_else(tmp_path):
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "pins.npz", all_images=images, all_labels=labels, class_names=np.array(["a", "a"]))
    with pytest.raises(ValueError, match="distinct texts"):
        load(tmp_path)


def test_what_macos_and_other_machines_leave_beside_the_images_is_skipped(tmp_path, folder):
    before = fingerprint_of(tmp_path / "data", folder)
    (folder / "pins_Zoe Zed").rename(folder / "Pins_Zoe Zed")
    (folder / "pins_Adam Ant" / "._Adam Ant_000.png").write_bytes(b"resource fork")
    write_folder(tmp_path / "faces" / "__MACOSX", {"pins_Adam Ant/._x.png": b"resource fork"})
    assert fingerprint_of(tmp_path / "data", folder) == before
    shutil.copytree(folder / "Pins_Zoe Zed", folder / "PINS_Zoe Zed")
    with pytest.raises(ValueError, match="one folder of 'Zoe Zed', but got"):
        fingerprint_of(tmp_path / "data", folder)


def test_a_name_is_the_same_in_either_unicode_form(tmp_path):
    files = {f"pins_{name}/{i}.png": picture(i) for name in ("Ren\u00e9", "Zoe") for i in range(2)}
    there = write_folder(tmp_path / "composed", files)
    moved = write_folder(tmp_path / "apart", {unicodedata.normalize("NFD", name): x for name, x in files.items()})
    data = load(tmp_path / "data", there, "none")
    assert data.class_names == load(tmp_path / "data", moved, "none").class_names == ("Ren\u00e9", "Zoe")
    assert fingerprint_of(tmp_path / "data", there) == fingerprint_of(tmp_path / "data", moved)
    assert find_class(data.class_names, "Rene\u0301", what="class") == 0
    write_folder(there, {"pins_Rene\u0301/9.png": picture(9)})
    with pytest.raises(ValueError, match="there twice"):
        load(tmp_path / "data", there)


def test_an_image_is_decoded_upright(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 26, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90°
    Image.fromarray(noise).rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(noise).save(tmp_path / "upright.png")
    np.testing.assert_array_equal(decode(tmp_path / "turned.png"), decode(tmp_path / "upright.png"))


def test_an_image_that_would_be_cut_off_or_run_by_another_program_is_refused(tmp_path, monkeypatch):
    deep = np.full((4, 4), 40_000, np.uint16), np.full((4, 4), 0.5, np.float32)
    for pixels in deep:
        Image.fromarray(pixels).save(tmp_path / "deep.tif")
        with pytest.raises(ValueError, match=r"deep\.tif .*more than 8 bits"):
            decode(tmp_path / "deep.tif")
    Image.new("RGB", (4, 4)).save(tmp_path / "page.eps")
    (tmp_path / "page.eps").rename(tmp_path / "page.png")
    with pytest.raises(ValueError, match=r"page\.png .*cannot identify"):
        decode(tmp_path / "page.png")
    (tmp_path / "large.png").write_bytes(picture(0))
    monkeypatch.setattr(pins, "MAX_PIXELS", 700)
    with pytest.raises(ValueError, match=r"26 × 30 pixels, more than 700"):
        decode(tmp_path / "large.png")

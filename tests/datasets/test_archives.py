import struct
import zipfile
from contextlib import nullcontext

import pytest

from datasets.archives import extract_zip

REFUSED = r"x\.zip to be a zip archive of plain files, but .*{}.*; delete it and run again"
FILES = {"a/one.txt": b"one", "a/b/two.txt": b"two", "three.txt": b""}


def zip_of(path, files, mode=None, compression=zipfile.ZIP_DEFLATED):
    """Write an archive; `files` may be pairs, so that a name can be there twice."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            info.external_attr = (mode or 0o100644) << 16
            file.writestr(info, content)
    return path


def unpack(archive, target, max_files=10, max_bytes=1_000):
    extract_zip(archive, target, max_files=max_files, max_bytes=max_bytes)


def everything_in(folder):
    """Return the content of the files in a folder but for locks, which stay."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def everything_beside(folder):
    """Return the names in a folder but for the lock, which stays."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_files_and_folders_are_there_and_nothing_else(tmp_path):
    archive = zip_of(tmp_path / "x.zip", FILES)
    with zipfile.ZipFile(archive, "a") as file:
        file.mkdir("empty")
    unpack(archive, tmp_path / "out" / "x")
    assert everything_in(tmp_path / "out") == {f"x/{name}": content for name, content in FILES.items()}
    assert (tmp_path / "out" / "x" / "empty").is_dir()
    assert everything_beside(tmp_path / "out") == ["x"]


OUTSIDE = ("a/../../evil", "/evil", "C:/evil", "a\\..\\..\\evil")
ATTACKS = {
    **{f"outside {name}": ({"good": b"", name: b"evil"}, {}, "outside the folder") for name in OUTSIDE},
    "link": ({"link": b"/etc"}, {"mode": 0o120777}, "a link or a device"),
    "too many": ({f"{i}": b"" for i in range(11)}, {}, "11 entries, more than 10"),
    "too big": ({"a": bytes(600), "b": bytes(600)}, {}, "1200 bytes, more than 1000"),
    "twice": ([("a", b"1"), ("a", b"2")], {}, "'a' is there twice"),
    "file as folder": ([("a", b"1"), ("a/b", b"2")], {}, "'a/b' is there twice"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_leaves_nothing(name, tmp_path):
    files, options, reason = ATTACKS[name]
    place = tmp_path / "place" / "inner"
    place.mkdir(parents=True)
    archive = zip_of(place / "x.zip", files, **options)
    with pytest.raises(ValueError, match=REFUSED.format(reason)):
        unpack(archive, place / "x")
    assert everything_in(tmp_path) == {"place/inner/x.zip": archive.read_bytes()}
    assert everything_beside(place) == ["x.zip"]


def lying(offset, lie):
    """Return a change of an entry of the central directory, where 24 is the size when unpacked and 8 the flags."""

    def change(whole):
        start = whole.rindex(b"PK\x01\x02") + offset
        return whole[:start] + lie + whole[start + len(lie) :]

    return change


PLAIN, BOMB = (bytes(range(256)), zipfile.ZIP_STORED), (bytes(10_000_000), zipfile.ZIP_DEFLATED)
DAMAGES = {
    "no zip": (PLAIN, lambda whole: b"<html>try again later</html>", ""),
    "truncated": (PLAIN, lambda whole: whole[: len(whole) // 2], ""),
    "flipped": (PLAIN, lambda whole: whole[:100] + bytes([whole[100] ^ 255]) + whole[101:], ""),
    "a bomb that declares less than it holds": (BOMB, lying(24, struct.pack("<I", 10)), ""),
    "encrypted": (PLAIN, lying(8, b"\x01"), "is encrypted"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_archive_is_one_clear_error(name, tmp_path):
    (content, compression), damage, reason = DAMAGES[name]
    archive = zip_of(tmp_path / "x.zip", {"a": content}, compression=compression)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match=REFUSED.format(reason)):
        unpack(archive, tmp_path / "x")
    assert everything_beside(tmp_path) == ["x.zip"]


def test_an_older_folder_is_replaced_but_stays_if_the_new_archive_is_refused(tmp_path):
    unpack(zip_of(tmp_path / "old.zip", {"old.txt": b"old"}), tmp_path / "x")
    unpack(zip_of(tmp_path / "x.zip", FILES), tmp_path / "x")
    assert everything_in(tmp_path / "x") == FILES
    with pytest.raises(ValueError, match="more than"):
        unpack(zip_of(tmp_path / "x.zip", {"a": bytes(2_000)}), tmp_path / "x")
    assert everything_in(tmp_path / "x") == FILES


def test_what_a_killed_process_left_while_it_unpacked_goes(tmp_path):
    left = tmp_path / "x.abc.part"
    (left / "a").mkdir(parents=True)
    (left / "a" / "half").write_bytes(b"half")
    (tmp_path / "y.abc.part").mkdir()  # of another archive
    unpack(zip_of(tmp_path / "x.zip", FILES), tmp_path / "x")
    assert everything_beside(tmp_path) == ["x", "x.zip", "y.abc.part"]


def test_what_another_process_unpacks_stays(tmp_path, monkeypatch):
    (tmp_path / "x.abc.part").mkdir()
    monkeypatch.setattr("datasets.archives.locked", lambda path, purpose: nullcontext(False))  # no locks there
    unpack(zip_of(tmp_path / "x.zip", FILES), tmp_path / "x")
    assert everything_beside(tmp_path) == ["x", "x.abc.part", "x.zip"]

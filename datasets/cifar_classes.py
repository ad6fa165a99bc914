"""Names of the classes of CIFAR-10, CIFAR-100 and CIFAR-20, in official order; imports nothing."""

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The five superclasses that the paper forgets carry the paper's short names.
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "veg": "apple mushroom orange pear sweet_pepper",
    "electrical_devices": "clock keyboard lamp telephone television",
    "furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "outdoor_things": "bridge castle house road skyscraper",
    "natural_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicle1": "bicycle bus motorcycle pickup_truck train",
    "vehicle2": "lawn_mower rocket streetcar tank tractor",
}
SUPERCLASS_OF = {name: superclass for superclass, members in SUPERCLASSES.items() for name in members.split()}
CIFAR100 = tuple(sorted(SUPERCLASS_OF))
CIFAR20 = tuple(SUPERCLASSES)

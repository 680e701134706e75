"""The embedded base's world: animals, plants and foods, which of them are held out, and their captions."""

from __future__ import annotations

from collections.abc import Iterable

Colour = tuple[int, int, int]

BACKGROUNDS: dict[str, Colour] = {
    "white": (255, 255, 255),
    "blue": (120, 170, 235),
    "green": (150, 215, 150),
    "yellow": (250, 225, 110),
    "pink": (250, 170, 200),
    "grey": (165, 165, 170),
    "black": (40, 40, 45),
}

HELD_OUT: tuple[str, ...] = (
    *("fox", "panda", "owl", "frog", "octopus", "strawberry", "bear", "cow-face", "koala", "penguin", "turtle"),
    *("snail", "dolphin", "shark", "butterfly", "honeybee", "rooster", "elephant", "horse-face", "crab", "spider"),
    *("tulip", "mushroom", "cactus", "maple-leaf", "pineapple", "pear", "lemon", "carrot", "eggplant", "avocado"),
    *("hamburger", "pizza", "doughnut", "ice-cream", "popcorn", "cherries", "wolf", "deer", "squid", "sushi", "duck"),
)

ANIMALS_AND_PLANTS: tuple[str, ...] = (
    *("ant", "baby-chick", "bat", "bear", "bird", "blossom", "blowfish", "boar", "bouquet", "bug", "butterfly"),
    *("cactus", "camel", "cat", "cat-face", "cherry-blossom", "chicken", "chipmunk", "cow", "cow-face", "crab"),
    *("cricket", "crocodile", "deciduous-tree", "deer", "dog", "dog-face", "dolphin", "dove", "dragon", "dragon-face"),
    *("duck", "eagle", "elephant", "evergreen-tree", "ewe", "fallen-leaf", "fish", "four-leaf-clover", "fox", "frog"),
    *("front-facing-baby-chick", "goat", "gorilla", "hamster", "hatching-chick", "herb", "hibiscus", "honeybee"),
    *("horse", "horse-face", "koala", "lady-beetle", "leaf-fluttering-in-wind", "leopard", "lion", "lizard"),
    *("maple-leaf", "monkey", "monkey-face", "mouse", "mouse-face", "mushroom", "octopus", "owl", "ox", "palm-tree"),
    *("panda", "paw-prints", "penguin", "pig", "pig-face", "pig-nose", "poodle", "rabbit", "rabbit-face", "ram"),
    *("rat", "rhinoceros", "rooster", "rose", "rosette", "scorpion", "seedling", "shamrock", "shark", "sheaf-of-rice"),
    *("shrimp", "snail", "snake", "spider", "spider-web", "spiral-shell", "spouting-whale", "squid", "sunflower"),
    *("tiger", "tiger-face", "tropical-fish", "tulip", "turkey", "turtle", "two-hump-camel", "unicorn"),
    *("water-buffalo", "whale", "white-flower", "wilted-flower", "wolf"),
)

FOOD_AND_DRINK: tuple[str, ...] = (
    *("amphora", "avocado", "baby-bottle", "bacon", "baguette-bread", "banana", "beer-mug", "bento-box"),
    *("birthday-cake", "bottle-with-popping-cork", "bread", "burrito", "candy", "carrot", "cheese-wedge", "cherries"),
    *("chestnut", "chocolate-bar", "clinking-beer-mugs", "clinking-glasses", "cocktail-glass", "cooked-rice"),
    *("cookie", "cooking", "croissant", "cucumber", "curry-rice", "custard", "dango", "doughnut", "ear-of-corn"),
    *("egg", "eggplant", "fish-cake-with-swirl", "fork-and-knife", "fork-and-knife-with-plate", "french-fries"),
    *("fried-shrimp", "glass-of-milk", "grapes", "green-apple", "green-salad", "hamburger", "honey-pot"),
    *("hot-beverage", "hot-dog", "hot-pepper", "ice-cream", "kitchen-knife", "kiwi-fruit", "lemon", "lollipop"),
    *("meat-on-bone", "melon", "oden", "pancakes", "peach", "peanuts", "pear", "pineapple", "pizza", "popcorn"),
    *("pot-of-food", "potato", "poultry-leg", "red-apple", "rice-ball", "rice-cracker", "roasted-sweet-potato"),
    *("sake", "shallow-pan-of-food", "shaved-ice", "shortcake", "soft-ice-cream", "spaghetti", "spoon"),
    *("steaming-bowl", "strawberry", "stuffed-flatbread", "sushi", "taco", "tangerine", "teacup-without-handle"),
    *("tomato", "tropical-drink", "tumbler-glass", "watermelon", "wine-glass"),
)


def world_names(available: Iterable[str]) -> tuple[str, ...]:
    """Return the world's identities among `available` names, sorted."""
    return tuple(sorted(set(available) & {*ANIMALS_AND_PLANTS, *FOOD_AND_DRINK}))


def training_names(available: Iterable[str]) -> tuple[str, ...]:
    """Return the identities the embedded base is trained on, sorted."""
    return tuple(name for name in world_names(available) if name not in HELD_OUT)


def caption(style: str, name: str, background: str = "white") -> str:
    """Return the caption of an image as comma-separated tags.

    >>> caption("flat", "red-apple")
    'flat, red apple, white background'
    """
    return f"{style}, {name.replace('-', ' ')}, {background} background"

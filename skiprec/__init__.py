"""SkipRec: very deep sequential recommenders that run only the blocks each user needs."""

"""From a data set's description to records: listings, splits, few-shot subsets, prompts, pixels.
Gives `datasets.load`, `few_shot.subset` and `images.load_batches`; knows no model.
"""

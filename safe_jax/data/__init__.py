"""What is classified: data sets, few-shot subsets, images."""

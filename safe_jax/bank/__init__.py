"""What the frozen trunk computes, stored once: dense maps of images, and batches made of them.
`store.load_or_extract` gives a `view.View` of all images of a bank; a view selects images, computes
other arrays from their maps, and makes batches. Nothing here knows a method.
"""

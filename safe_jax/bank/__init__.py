"""What the frozen trunk computes, stored once: dense maps of images, and batches made of them.
Gives `store.load_or_extract` and the batches of `batches.py`; knows no method.
"""

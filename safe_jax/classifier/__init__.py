"""The thing that was tuned: a method with its parameters, at the point that validation images
chose. `choose.choose` takes the best candidate at the best point of a grid; `classifier.Classifier`
is what remains: it gives logits, and its accuracy is the number in a row. `evaluation` says more of
it, from logits alone: where it errs, and how far its confidence can be believed.
"""

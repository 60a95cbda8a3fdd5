"""From a method's start to tuned parameters: the step, the loop that survives a kill, populations.
`fit.fit` tunes one job by one recipe, `fit.fit_all` many, one by one or together. It knows of a
method no more than the contract.
"""

"""From a method's start to tuned parameters: the steps, the loop that survives a kill, populations.
Gives `fit.fit`; what a method is made of is its own affair.
"""

"""Weights of a backbone as files: checkpoints of torch, and the Orbax directories made of them.

Nothing in a file is ever run. A backbone says in a `Family` what its tensors are called and how
they are arranged; reading and writing are the same for all.
"""

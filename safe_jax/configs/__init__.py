"""The configs that come with the package, a module each; `--config NAME` names one.

A config of your own is a file with `get_config`, which starts from one of these:

    from safe_jax.configs import default

    def get_config():
        config = default.get_config()
        config.dataset = "caltech101"
        return config
"""

"""Every knob, once. The other configs state what they change."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()

    # What is classified: data sets of the benchmark by their names (a, or a,b), or any folder of
    # images, with a split file in CoOp's format or a folder for each class. Paths are under
    # data_root; empty ones are the benchmark's. docs/data.md has all layouts.
    config.dataset = ""
    config.data_root = "data"
    config.image_dir = ""
    config.split_file = ""
    config.tfds = ""  # or a data set that TFDS prepared there: name, name/config or name:version
    config.templates = ()  # each with one {}; several are averaged
    config.prompts_file = ""  # JSON, {class: [sentence, ...]}; replaces the templates
    config.shots = (1, 2, 4, 8, 16)  # labelled images a class
    config.seeds = (1, 2, 3)  # of the subsets and of the order of training

    # What is compared; safe_jax/methods/ has a module for each: zero_shot, safe, safe_a, safe_a_f,
    # tip_adapter, tip_adapter_f, clip_adapter, prolip, linear_probe, partial.
    config.methods = ("zero_shot", "safe")

    # The pre-trained model: RN50, RN101, RN50x4, RN50x16, RN50x64 (downloaded on first use), small
    # (comes with the package), or a directory written by tools/convert_torch_weights.py.
    config.weights = "RN50"
    # Of the trunk: float32, bfloat16 or float16. auto: bfloat16 on an accelerator, else float32.
    config.dtype = "auto"

    # Tuning by AdamW. What was measured for these defaults, and how, is in docs/defaults.md.
    config.trainable = "attnpool/.*"  # regex; parameters whose whole path matches are trained
    config.learning_rate = 1e-4  # the peak, after the warm-up
    config.weight_decay = 0.01
    # If given, they replace every method's own; the one that is best on validation is kept.
    config.learning_rates = ()
    config.weight_decays = ()
    config.epochs = 50
    config.warmup_epochs = 1.0
    config.batch_size = 64
    config.b1 = 0.9
    config.b2 = 0.999
    config.eps = 1e-8  # safe in float32; peers that tune in float16 need 1e-4
    config.blend = "feature"  # feature, unit or logit; methods/safe.py has the formulas
    config.train_alpha = 1.0  # tune through this blend; 1: the tuned pool by itself

    # Knobs of one method each; they override those above of the same name. Which values are the
    # authors' is in docs/methods.md.
    # The caches: the grid of a and b, and the values that keys are tuned with. 0: the authors' for
    # the data set.
    config.tip_adapter = ConfigDict(
        {"a_max": 0.0, "a_steps": 20, "b_max": 0.0, "b_steps": 200, "a": 0.0, "b": 1.0}
    )
    config.safe_a = ConfigDict(
        {"a_max": 0.0, "a_steps": 20, "b_max": 0.0, "b_steps": 20, "a": 0.0, "b": 1.0}
    )
    # Tuned keys, of tip_adapter_f and safe_a_f. 0 epochs: the authors' for the data set.
    config.tip_adapter_f = ConfigDict(
        {
            "trainable": "keys",
            "learning_rate": 1e-3,
            "eps": 1e-4,
            "weight_decay": 0.01,
            "epochs": 0,
            "warmup_epochs": 0.0,
            "batch_size": 256,
        }
    )
    config.clip_adapter = ConfigDict(
        {
            "trainable": "down|up",
            "ratio": 0.2,  # of the adapted feature
            "reduction": 4,  # how many times narrower the bottleneck is
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "epochs": 50,
            "warmup_epochs": 1.0,
            "batch_size": 64,
        }
    )
    config.prolip = ConfigDict(
        {
            "trainable": "c_proj/kernel",
            "regularizer": 1.0,  # lambda is this / shots
            "learning_rate": 1e-5,
            "eps": 1e-4,
            "weight_decay": 0.0,
            "epochs": 300,
            "warmup_epochs": 0.0,
            "batch_size": 0,  # all images of the subset
        }
    )
    config.linear_probe = ConfigDict(
        {
            "trainable": "classifier",
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "epochs": 50,
            "warmup_epochs": 1.0,
            "batch_size": 64,
        }
    )
    config.partial = ConfigDict(
        {
            "trainable": "attnpool/.*|classifier",
            "learning_rate": 1e-5,
            "weight_decay": 0.01,
            "epochs": 50,
            "warmup_epochs": 1.0,
            "batch_size": 64,
        }
    )

    # Where dense maps come from: the bank (each image once, `views` views), or the trunk anew in
    # every step (fresh crops).
    config.features = "bank"  # bank or online
    config.views = 1  # of a training image: the centre crop, then random crops
    config.crop_scale = (0.8, 1.0)  # of a random crop's area
    config.bank_dtype = "float16"  # float16 or float32

    # How alpha is chosen: on min(shots, 4) validation images a class, on all validation images, or
    # not at all (`alpha` is used).
    config.selection = "few_shot_val"  # few_shot_val, full_val or fixed
    # few_shot, or the way of the published figures, tip_adapter: selection is full_val, with seed 1
    # alone (without what they choose on test). Rows and tables say so.
    config.protocol = "few_shot"
    config.alpha = 0.5
    config.alpha_grid_size = 21  # values from 0 to 1

    # What is evaluated on. val is for choosing knobs: the validation images that chose no alpha.
    config.eval_split = "test"  # test or val
    # Where to evaluate what was tuned on ImageNet: imagenet_v2, imagenet_sketch, imagenet_a and
    # imagenet_r.
    config.transfer = ()

    # What follows affects speed and memory; results change by rounding alone.
    # Downloads, and banks: for RN50 196 KiB an image and view.
    config.cache_dir = "~/.cache/safe_jax"
    config.workers = 0  # threads that decode; 0: one for each core
    config.trunk_batch_size = 32  # images a device, in extraction
    config.eval_batch_size = 256
    config.checkpoint_every = 500  # steps
    # Tunings (subsets, and rates and decays on each) in one compiled program, all in the memory of
    # the devices. For accelerators: on a CPU nothing is gained.
    config.population = 1

    return config.lock()  # a mistyped knob in another config is an error

"""NYUv2 with 13 classes: DeepLabV3-ResNet50 -> DeepLabV3-MobileNetV2, a buffer of 16,000 synthetic images 128x128.

    python experiments/prepare_data.py --name=nyuv2 --source=FOLDER
    python experiments/distill.py --config=configs/nyuv2.py --workdir=runs/nyuv2

The pair and the buffer are the paper's, the generator's size and the data's resolution the peers' (DFAD, CMI);
teachers of theirs are imported by experiments/import_torch.py --image_size=128. What is ours is not tuned:
this config has not been run at full length. The paper reports 0.384 mIoU. The teacher runs in every
distillation step, since its logits on one view of all images would take 13.6 GB.
"""

from ml_collections import ConfigDict

from ssdkd_jax import config as defaults


def get_config() -> ConfigDict:
    """`python -m ssdkd_jax.config` tells every field's meaning."""
    config = defaults.default()
    config.data.update(name="nyuv2", crop=128)
    config.task.name = "segmentation"
    config.modulation.difficulty = True
    config.teacher.update(model="deeplabv3_resnet50", epochs=200, batch=16, lr=0.01, weight_decay=5e-4, flip=True)
    config.student.update(model="deeplabv3_mobilenet", batch=64, lr=0.1, weight_decay=5e-5, temperature=1.0)
    config.synthesis.update(batch=64, inner_steps=5, latent=256, width=64, doublings=4, lr_generator=1e-3, flip=True)
    config.buffer.update(size=16000, half_life=50.0)
    config.views.update(count=0, flip=True, shift=8)
    config.schedule.update(rounds=300, warmup=20, distill_steps=250, evaluate_every=10)
    config.yardstick_steps = 0
    return config

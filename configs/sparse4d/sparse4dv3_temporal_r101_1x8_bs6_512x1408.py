# Sparse4D v3, ResNet-101, 512 x 1408 pixels. Its authors publish the figures, no config: this is that of ResNet-50 with
# twice the resolution. They begin with weights trained on nuImages: --cfg-options load_from=...
_base_ = './sparse4dv3_temporal_r50_1x8_bs6_256x704.py'

model = dict(
    img_backbone=dict(
        depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')
    )
)
data_aug_conf = dict(final_dim=(512, 1408), resize_lim=(0.80, 0.94))
train_dataloader = dict(dataset=dict(data_aug_conf=data_aug_conf))
val_dataloader = dict(dataset=dict(data_aug_conf=data_aug_conf))
test_dataloader = val_dataloader

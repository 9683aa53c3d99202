# BEVFusion on LiDAR and six cameras for the generated scenes and two CPU cores: the small LiDAR detector, and images of
# 128 x 352 pixels seen by a narrow ResNet-18 that starts from nothing.
_base_ = './bevfusion_lidar_voxel02_second_secfpn_1xb2-onecycle-4e_nus-generated-3d.py'

image_size = [128, 352]
input_modality = dict(use_lidar=True, use_camera=True)
image_norm = dict(type='BN', momentum=0.05)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=False
    ),
    img_backbone=dict(
        type='mmdet.ResNet',
        depth=18,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        norm_cfg=image_norm,
        norm_eval=False,
        frozen_stages=-1,
    ),
    img_neck=dict(
        type='GeneralizedLSSFPN',
        in_channels=[32, 64],
        out_channels=32,
        num_outs=1,
        norm_cfg=image_norm,
        upsample_cfg=dict(mode='bilinear', align_corners=False),
    ),
    view_transform=dict(
        type='DepthLSSTransform',
        in_channels=32,
        out_channels=32,
        image_size=image_size,
        feature_size=[16, 44],
        xbound=[-51.2, 51.2, 0.8],
        ybound=[-51.2, 51.2, 0.8],
        zbound=[-10.0, 10.0, 20.0],
        dbound=[1.0, 56.0, 1.0],
    ),
    fusion_layer=dict(type='ConvFuser', in_channels=[32, 64], out_channels=64),
)

load_images = dict(type='BEVLoadMultiViewImageFromFiles', to_float32=False, color_type='color')
fit_images = dict(
    type='ImageAug3D',
    final_dim=image_size,
    resize_lim=[0.22, 0.22],
    bot_pct_lim=[0.0, 0.0],
    rot_lim=[0.0, 0.0],
    rand_flip=False,
    is_train=False,
)
train_pipeline = [load_images, fit_images, *_base_.train_pipeline]
test_pipeline = [load_images, fit_images, *_base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, modality=input_modality))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, modality=input_modality))
test_dataloader = val_dataloader
custom_hooks = [
    dict(type='BEVPictureHook', frames=6),
    dict(type='CameraPictureHook', frames=6),
]

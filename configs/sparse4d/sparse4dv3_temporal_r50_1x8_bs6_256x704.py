# Sparse4D v3, ResNet-50, 256 x 704 pixels, 8 GPUs with 6 sequences each.
_base_ = 'mmdet3d::_base_/default_runtime.py'
custom_imports = dict(imports=['mxd_mmplugin', 'mxd_mmplugin.models.sparse4d'])

class_names = [
    *('car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier'),
    *('motorcycle', 'bicycle', 'pedestrian', 'traffic_cone'),
]
cone, barrier = class_names.index('traffic_cone'), class_names.index('barrier')
embed_dims = 256
num_groups = 8
num_decoder = 6
num_single_frame_decoder = 1
strides = [4, 8, 16, 32]
num_depth_layers = 3
drop_out = 0.1

attention = dict(
    type='MultiheadAttention',
    embed_dims=embed_dims * 2,
    num_heads=num_groups,
    batch_first=True,
    dropout=drop_out,
)
single_frame_layer = ['gnn', 'norm', 'deformable', 'ffn', 'norm', 'refine']
temporal_layer = ['temp_gnn', *single_frame_layer]
key_points = [
    [0, 0, 0],
    [0.45, 0, 0],
    [-0.45, 0, 0],
    [0, 0.45, 0],
    [0, -0.45, 0],
    [0, 0, 0.45],
    [0, 0, -0.45],
]
model = dict(
    type='Sparse4D',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
    use_grid_mask=True,
    img_backbone=dict(
        type='mmdet.ResNet',
        depth=50,
        num_stages=4,
        frozen_stages=-1,
        norm_eval=False,
        style='pytorch',
        with_cp=True,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    img_neck=dict(
        type='mmdet.FPN',
        num_outs=len(strides),
        start_level=0,
        out_channels=embed_dims,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
        in_channels=[256, 512, 1024, 2048],
    ),
    depth_branch=dict(
        type='DenseDepthNet',
        embed_dims=embed_dims,
        num_depth_layers=num_depth_layers,
        loss_weight=0.2,
    ),
    head=dict(
        type='Sparse4DHead',
        cls_threshold_to_reg=0.05,
        decouple_attn=True,
        instance_bank=dict(
            type='InstanceBank',
            num_anchor=900,
            embed_dims=embed_dims,
            anchor='data/nuscenes/nuscenes_kmeans900.npy',
            # Sine and cosine change places from frame to frame, as the published weights have learned it.
            anchor_handler=dict(type='SparseBox3DKeyPointsGenerator', swap_projected_yaw=True),
            num_temp_instances=600,
            confidence_decay=0.6,
            feat_grad=False,
        ),
        anchor_encoder=dict(
            type='SparseBox3DEncoder',
            vel_dims=3,
            embed_dims=[128, 32, 32, 64],
            mode='cat',
            output_fc=False,
            in_loops=1,
            out_loops=4,
        ),
        num_single_frame_decoder=num_single_frame_decoder,
        operation_order=(
            single_frame_layer * num_single_frame_decoder
            + temporal_layer * (num_decoder - num_single_frame_decoder)
        )[2:],
        temp_graph_model=attention,
        graph_model=attention,
        norm_layer=dict(type='LN', normalized_shape=embed_dims),
        ffn=dict(
            type='AsymmetricFFN',
            in_channels=embed_dims * 2,
            pre_norm=dict(type='LN'),
            embed_dims=embed_dims,
            feedforward_channels=embed_dims * 4,
            num_fcs=2,
            ffn_drop=drop_out,
            act_cfg=dict(type='ReLU', inplace=True),
        ),
        deformable_model=dict(
            type='DeformableFeatureAggregation',
            embed_dims=embed_dims,
            num_groups=num_groups,
            num_levels=len(strides),
            num_cams=6,
            attn_drop=0.15,
            use_camera_embed=True,
            residual_mode='cat',
            kps_generator=dict(
                type='SparseBox3DKeyPointsGenerator', num_learnable_pts=6, fix_scale=key_points
            ),
            aggregation=dict(type='DeformableAggregation'),
        ),
        refine_layer=dict(
            type='SparseBox3DRefinementModule',
            embed_dims=embed_dims,
            num_cls=len(class_names),
            refine_yaw=True,
            with_quality_estimation=True,
        ),
        sampler=dict(
            type='SparseBox3DTarget',
            num_dn_groups=5,
            num_temp_dn_groups=3,
            dn_noise_scale=[2.0] * 3 + [0.5] * 7,
            max_dn_gt=32,
            add_neg_dn=True,
            cls_weight=2.0,
            box_weight=0.25,
            reg_weights=[2.0] * 3 + [0.5] * 3 + [0.0] * 4,
            # A cone has no front.
            cls_wise_reg_weights={cone: [2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]},
        ),
        loss_cls=dict(
            type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0
        ),
        loss_reg=dict(
            type='SparseBox3DLoss',
            loss_box=dict(type='mmdet.L1Loss', loss_weight=0.25),
            loss_centerness=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
            loss_yawness=dict(type='mmdet.GaussianFocalLoss'),
            cls_allow_reverse=[barrier],
        ),
        decoder=dict(type='SparseBox3DDecoder'),
        reg_weights=[2.0] * 3 + [1.0] * 7,
    ),
)

data_root = 'data/nuscenes/'
metainfo = dict(classes=class_names, version='v1.0-trainval')
data_prefix = dict(
    pts='samples/LIDAR_TOP',
    sweeps='sweeps/LIDAR_TOP',
    CAM_FRONT='samples/CAM_FRONT',
    CAM_FRONT_LEFT='samples/CAM_FRONT_LEFT',
    CAM_FRONT_RIGHT='samples/CAM_FRONT_RIGHT',
    CAM_BACK='samples/CAM_BACK',
    CAM_BACK_LEFT='samples/CAM_BACK_LEFT',
    CAM_BACK_RIGHT='samples/CAM_BACK_RIGHT',
)
data_aug_conf = dict(
    H=900,
    W=1600,
    final_dim=(256, 704),
    resize_lim=(0.40, 0.47),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(-5.4, 5.4),
    rand_flip=True,
    rot3d_range=(-0.3925, 0.3925),
)
load_images = dict(type='BEVLoadMultiViewImageFromFiles', to_float32=False, color_type='color')
train_pipeline = [
    load_images,
    # The LiDAR is for the depth alone.
    dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5),
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='ResizeCropFlipImage'),
    dict(type='MultiScaleDepthMapGenerator', downsample=strides[:num_depth_layers]),
    dict(type='BBoxRotation'),
    dict(type='PhotoMetricDistortionMultiViewImage'),
    dict(type='CircleObjectRangeFilter', class_dist_thred=[55] * len(class_names)),
    dict(type='InstanceNameFilter', classes=class_names),
    dict(type='NuScenesSparse4DAdaptor'),
]
test_pipeline = [
    load_images,
    dict(type='ResizeCropFlipImage'),
    dict(type='NuScenesSparse4DAdaptor'),
]
dataset = dict(
    type='NuScenes3DDetTrackDataset',
    data_root=data_root,
    metainfo=metainfo,
    data_prefix=data_prefix,
    data_aug_conf=data_aug_conf,
    box_type_3d='LiDAR',
)
batch_size = 6
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=batch_size,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='GroupInBatchSampler'),
    dataset=dict(
        **dataset,
        ann_file='nuscenes_infos_train.pkl',
        pipeline=train_pipeline,
        modality=dict(use_camera=True, use_lidar=True),
        sequences_split_num=2,
        keep_consistent_seq_aug=True,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    batch_sampler=dict(type='SequenceBatchSampler'),
    dataset=dict(
        **dataset,
        ann_file='nuscenes_infos_val.pkl',
        pipeline=test_pipeline,
        modality=dict(use_camera=True, use_lidar=False),
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='NuScenesTrackingMetric',
    data_root=data_root,
    ann_file=data_root + 'nuscenes_infos_val.pkl',
    metric='bbox',
    modality=dict(use_camera=True, use_lidar=False),
    tracking=True,
    tracking_threshold=0.2,
)
test_evaluator = val_evaluator

iters_per_epoch = 28130 // (8 * batch_size)
max_iters = 100 * iters_per_epoch
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale=32.0,
    optimizer=dict(type='AdamW', lr=6e-4, weight_decay=0.001),
    paramwise_cfg=dict(custom_keys=dict(img_backbone=dict(lr_mult=0.5))),
    clip_grad=dict(max_norm=25, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(
        type='CosineAnnealingLR',
        T_max=max_iters,
        eta_min_ratio=1e-3,
        by_epoch=False,
        begin=0,
        end=max_iters,
    ),
]
train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=20 * iters_per_epoch)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(
    logger=dict(interval=51), checkpoint=dict(interval=20 * iters_per_epoch, by_epoch=False)
)
custom_hooks = [dict(type='ExactResumeHook')]
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=48)

# Sparse4D v1, ResNet-101 with deformable convolution, 640 x 1600 pixels, four frames: an instance looks into the images of
# three frames before, at the places where its box was. Its authors begin with FCOS3D's weights: --cfg-options load_from=...
_base_ = './sparse4dv3_temporal_r50_1x8_bs6_256x704.py'

embed_dims = 256
frames = 4
key_points = _base_.key_points
attention = dict(
    type='MultiheadAttention', embed_dims=embed_dims, num_heads=8, batch_first=True, dropout=0.1
)
model = dict(
    _delete_=True,
    type='Sparse4D',
    data_preprocessor=dict(
        type='Det3DDataPreprocessor',
        mean=[103.530, 116.280, 123.675],
        std=[1.0, 1.0, 1.0],
        rgb_to_bgr=True,
    ),
    use_grid_mask=True,
    img_backbone=dict(
        type='mmdet.ResNet',
        depth=101,
        num_stages=4,
        frozen_stages=1,
        norm_eval=True,
        style='caffe',
        with_cp=True,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=False),
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet101_caffe'),
    ),
    img_neck=dict(
        type='mmdet.FPN',
        num_outs=4,
        start_level=1,
        out_channels=embed_dims,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
        in_channels=[256, 512, 1024, 2048],
    ),
    head=dict(
        type='Sparse4DHead',
        cls_threshold_to_reg=0.05,
        decouple_attn=False,
        with_instance_id=False,
        instance_bank=dict(
            type='InstanceBank',
            num_anchor=900,
            embed_dims=embed_dims,
            anchor='data/nuscenes/nuscenes_kmeans900.npy',
            anchor_handler=dict(type='SparseBox3DKeyPointsGenerator', save_fix_scale=False),
            max_queue_length=frames - 1,
            max_time_interval=5,
        ),
        anchor_encoder=dict(type='SparseBox3DEncoder', embed_dims=embed_dims, vel_dims=3),
        operation_order=['gnn', 'norm', 'deformable', 'norm', 'ffn', 'norm', 'refine'] * 6,
        graph_model=attention,
        norm_layer=dict(type='LN', normalized_shape=embed_dims),
        ffn=dict(
            type='FFN',
            embed_dims=embed_dims,
            feedforward_channels=embed_dims * 2,
            num_fcs=2,
            ffn_drop=0.1,
            act_cfg=dict(type='ReLU', inplace=True),
        ),
        deformable_model=dict(
            type='DeformableFeatureAggregation',
            embed_dims=embed_dims,
            num_groups=8,
            num_levels=4,
            num_cams=6,
            proj_drop=0.1,
            kps_generator=dict(
                type='SparseBox3DKeyPointsGenerator',
                num_learnable_pts=6,
                fix_scale=key_points,
                save_fix_scale=False,
            ),
            temporal_fusion_module=dict(type='LinearFusionModule'),
            aggregation=dict(type='DeformableAggregation'),
        ),
        refine_layer=dict(
            type='SparseBox3DRefinementModule',
            embed_dims=embed_dims,
            num_cls=len(_base_.class_names),
        ),
        sampler=dict(
            type='SparseBox3DTarget',
            cls_weight=2.0,
            box_weight=0.25,
            reg_weights=[2.0] * 3 + [1.0] * 7,
            cls_wise_reg_weights={_base_.cone: [1.0] * 6 + [0.0] * 2 + [1.0] * 2},
        ),
        loss_cls=dict(
            type='mmdet.FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0
        ),
        loss_reg=dict(type='SparseBox3DLoss', loss_box=dict(type='mmdet.L1Loss', loss_weight=0.25)),
        decoder=dict(type='SparseBox3DDecoder'),
        reg_weights=[2.0] * 3 + [1.0] * 7,
        kps_generator=dict(
            type='SparseBox3DKeyPointsGenerator', fix_scale=key_points, save_fix_scale=False
        ),
        depth_module=dict(type='DepthReweightModule', embed_dims=embed_dims),
    ),
)

load_images = _base_.load_images
crop = dict(type='CropMultiViewImage', crop_range=[260, 900, 0, 1600])
train_pipeline = [
    load_images,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    crop,
    dict(type='PhotoMetricDistortionMultiViewImage'),
    dict(type='CircleObjectRangeFilter', class_dist_thred=[55] * len(_base_.class_names)),
    dict(type='InstanceNameFilter', classes=_base_.class_names),
    dict(type='NuScenesSparse4DAdaptor'),
]
test_pipeline = [load_images, crop, dict(type='NuScenesSparse4DAdaptor')]
camera = dict(use_camera=True, use_lidar=False)
train_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='NuScenes3DDetTrackDataset',
        data_root=_base_.data_root,
        metainfo=_base_.metainfo,
        data_prefix=_base_.data_prefix,
        ann_file='nuscenes_infos_train.pkl',
        pipeline=train_pipeline,
        modality=camera,
        seq_frame=frames - 1,
        max_interval=2,
        max_time_interval=5,
        box_type_3d='LiDAR',
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, data_aug_conf=None))
test_dataloader = val_dataloader
val_evaluator = dict(tracking=False)
test_evaluator = val_evaluator

iters_per_epoch = 28130 // 8
max_iters = 24 * iters_per_epoch
optim_wrapper = dict(
    optimizer=dict(lr=2e-4, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(img_backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=35),
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
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=24, val_interval=24)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=6, by_epoch=True))
log_processor = dict(by_epoch=True)
auto_scale_lr = dict(base_batch_size=8)

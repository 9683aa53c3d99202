# BEVFusion on LiDAR alone for the generated scenes and two CPU cores: larger voxels, a quarter of the channels, three
# stages in place of four, four sweeps, no augmentation.
_base_ = './bevfusion_lidar_voxel0075_second_secfpn_8xb4-cyclic-20e_nus-3d.py'

data_root = 'data/nuscenes-generated/'
metainfo = dict(classes=_base_.class_names, version='v1.0-mini')
voxel_size = [0.2, 0.2, 0.2]
point_cloud_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
grid_size = [512, 512, 41]
out_size_factor = 4

norm_2d = dict(type='BN', eps=0.001, momentum=0.05)
attention = dict(embed_dims=32, num_heads=4, dropout=0.0)
head_grid = dict(grid_size=grid_size, out_size_factor=out_size_factor)
model = dict(
    data_preprocessor=dict(
        voxelize_cfg=dict(
            max_num_points=5,
            point_cloud_range=point_cloud_range,
            voxel_size=voxel_size,
            max_voxels=[40000, 60000],
        )
    ),
    pts_middle_encoder=dict(
        sparse_shape=grid_size,
        norm_cfg=dict(type='BN1d', eps=0.001, momentum=0.05),
        output_channels=16,
        encoder_channels=((16, 16), (16, 32), (32, 32)),
        encoder_paddings=((0, 1), (0, (1, 1, 0)), (0, 0)),
    ),
    pts_backbone=dict(in_channels=64, out_channels=[64, 64], layer_nums=[1, 3], norm_cfg=norm_2d),
    pts_neck=dict(in_channels=[64, 64], out_channels=[32, 32], norm_cfg=norm_2d),
    bbox_head=dict(
        num_proposals=128,
        in_channels=64,
        hidden_channel=32,
        decoder_layer=dict(
            self_attn_cfg=attention,
            cross_attn_cfg=attention,
            ffn_cfg=dict(embed_dims=32, feedforward_channels=64, ffn_drop=0.0),
            pos_encoding_cfg=dict(num_pos_feats=32),
        ),
        train_cfg=dict(head_grid, voxel_size=voxel_size, point_cloud_range=point_cloud_range),
        test_cfg=dict(head_grid, voxel_size=voxel_size[:2], pc_range=point_cloud_range[:2]),
        bbox_coder=dict(
            pc_range=point_cloud_range[:2],
            out_size_factor=out_size_factor,
            voxel_size=voxel_size[:2],
        ),
    ),
)

load_sweeps = dict(_base_.load_sweeps, sweeps_num=4, test_mode=True)  # the nearest ones, not any
keep_range = dict(_base_.keep_range, point_cloud_range=point_cloud_range)
train_pipeline = [
    _base_.load_points,
    load_sweeps,
    _base_.load_annotations,
    keep_range,
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=_base_.class_names),
    dict(type='PointShuffle'),
    _base_.train_pipeline[-1],
]
test_pipeline = [_base_.load_points, load_sweeps, keep_range, _base_.pack_test]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type='NuScenesDataset',
        data_root=data_root,
        ann_file='nuscenes_infos_train.pkl',
        pipeline=train_pipeline,
        metainfo=metainfo,
        modality=_base_.input_modality,
        data_prefix=_base_.data_prefix,
        use_valid_flag=True,
        box_type_3d='LiDAR',
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(data_root=data_root, pipeline=test_pipeline, metainfo=metainfo),
)
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator

max_epochs = 4
lr = 2e-3
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(
        type='OneCycleLR',
        eta_max=lr,
        pct_start=0.2,
        div_factor=4,
        total_steps=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1, save_last=True)
)
custom_hooks = [dict(type='BEVPictureHook', frames=6)]
randomness = dict(seed=0, deterministic=True)

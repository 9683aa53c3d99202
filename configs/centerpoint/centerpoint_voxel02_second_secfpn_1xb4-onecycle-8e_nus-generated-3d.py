# CenterPoint for the generated scenes and two CPU cores: the stock detector with voxels of twice the
# size, a quarter of the channels and four sweeps, so that it trains in minutes.
_base_ = './centerpoint_voxel01_second_secfpn_head-circlenms_8xb4-cyclic-20e_nus-3d.py'

data_root = 'data/nuscenes-generated/'
metainfo = dict(classes=_base_.class_names, version='v1.0-mini')

voxel_size = [0.2, 0.2, 0.2]
out_size_factor = 4
norm_cfg = dict(type='BN', eps=1e-3, momentum=0.05)

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(max_num_points=5, voxel_size=voxel_size, max_voxels=(40000, 60000))
    ),
    pts_middle_encoder=dict(
        sparse_shape=[41, 512, 512],
        output_channels=16,
        encoder_channels=((16,), (16, 16, 32), (32, 32)),
        encoder_paddings=((1,), (0, 0, (0, 1, 1)), (0, 0)),
    ),
    pts_backbone=dict(in_channels=64, out_channels=[64, 64], layer_nums=[1, 3], norm_cfg=norm_cfg),
    pts_neck=dict(in_channels=[64, 64], out_channels=[32, 32], norm_cfg=norm_cfg),
    pts_bbox_head=dict(
        in_channels=64,
        # One layer for each quantity: six tasks of six two-layer branches cost more than the rest.
        common_heads=dict(reg=(2, 1), height=(1, 1), dim=(3, 1), rot=(2, 1), vel=(2, 1)),
        num_heatmap_convs=1,
        separate_head=dict(final_kernel=1),
        loss_bbox=dict(loss_weight=1.0),
        bbox_coder=dict(voxel_size=voxel_size[:2], out_size_factor=out_size_factor),
    ),
    train_cfg=dict(
        pts=dict(grid_size=[512, 512, 40], voxel_size=voxel_size, out_size_factor=out_size_factor)
    ),
    test_cfg=dict(pts=dict(voxel_size=voxel_size[:2], out_size_factor=out_size_factor)),
)

db_sampler = dict(data_root=data_root, info_path=data_root + 'nuscenes_dbinfos_train.pkl')
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(sweeps_num=4, test_mode=True)  # test_mode: the nearest sweeps, not any
train_pipeline[3].db_sampler.update(db_sampler)
# The ego vehicle drives along a street, and so does most traffic: left so, headings are learned sooner.
train_pipeline[4].rot_range = [-0.1, 0.1]
train_pipeline[5].update(flip_ratio_bev_horizontal=0.0, flip_ratio_bev_vertical=0.0)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(sweeps_num=4, test_mode=True)

train_dataloader = dict(
    num_workers=2,
    # No class balancing: ObjectSample adds the rare classes, and every scene is seen once an epoch.
    dataset=dict(
        _delete_=True,
        type='NuScenesDataset',
        data_root=data_root,
        ann_file='nuscenes_infos_train.pkl',
        pipeline=train_pipeline,
        metainfo=metainfo,
        data_prefix=_base_.data_prefix,
        use_valid_flag=True,
        box_type_3d='LiDAR',
    ),
)
val_dataloader = dict(
    batch_size=4,
    dataset=dict(data_root=data_root, pipeline=test_pipeline, metainfo=metainfo),
)
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator

max_epochs = 8
lr = 8e-3
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    # One epoch of small steps, then one cycle. Adam moves a weight as far for rounding as for anything
    # else: at the cycle's rates, from random weights, a difference of 1e-7 is one of 1e-2 in twenty
    # steps, even between two thread counts of one machine. So the first losses can be compared
    # between machines; what is learned in the end is the same.
    dict(
        type='LinearLR',
        start_factor=0.001,
        end_factor=0.01,
        begin=0,
        end=1,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='OneCycleLR',
        eta_max=lr,
        pct_start=0.2,
        div_factor=4,
        total_steps=max_epochs - 1,
        begin=1,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
auto_scale_lr = dict(base_batch_size=4)

default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=1, max_keep_ckpts=1, save_last=True)
)
custom_hooks = [dict(type='BEVPictureHook', frames=6)]
randomness = dict(seed=0, deterministic=True)

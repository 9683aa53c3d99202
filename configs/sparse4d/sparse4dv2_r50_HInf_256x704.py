# Sparse4D v2, ResNet-50, 256 x 704 pixels, 8 GPUs with 8 sequences each: no noise to learn from, no estimated quality, no
# tracks; features and embeddings are added in the attention.
_base_ = './sparse4dv3_temporal_r50_1x8_bs6_256x704.py'

embed_dims = 256
attention = dict(
    type='MultiheadAttention', embed_dims=embed_dims, num_heads=8, batch_first=True, dropout=0.1
)
single_frame_layer = ['deformable', 'ffn', 'norm', 'refine']
temporal_layer = ['temp_gnn', 'gnn', 'norm', *single_frame_layer]
model = dict(
    head=dict(
        decouple_attn=False,
        with_instance_id=False,
        instance_bank=dict(
            anchor_handler=dict(swap_projected_yaw=False, save_fix_scale=False),
        ),
        anchor_encoder=dict(
            _delete_=True, type='SparseBox3DEncoder', embed_dims=embed_dims, vel_dims=3
        ),
        operation_order=single_frame_layer + temporal_layer * 5,
        temp_graph_model=attention,
        graph_model=attention,
        deformable_model=dict(kps_generator=dict(save_fix_scale=False)),
        refine_layer=dict(with_quality_estimation=False),
        sampler=dict(num_dn_groups=0, num_temp_dn_groups=0),
        loss_reg=dict(
            _delete_=True,
            type='SparseBox3DLoss',
            loss_box=dict(type='mmdet.L1Loss', loss_weight=0.25),
        ),
    )
)

batch_size = 8
train_dataloader = dict(batch_size=batch_size, num_workers=batch_size)
val_evaluator = dict(tracking=False)
test_evaluator = val_evaluator

iters_per_epoch = 28130 // (8 * batch_size)
max_iters = 100 * iters_per_epoch
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
train_cfg = dict(max_iters=max_iters, val_interval=20 * iters_per_epoch)
default_hooks = dict(checkpoint=dict(interval=20 * iters_per_epoch))
auto_scale_lr = dict(base_batch_size=64)

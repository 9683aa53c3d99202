_base_ = (
    'mmdet3d::centerpoint/centerpoint_voxel0075_second_secfpn_head-dcn_8xb4-cyclic-20e_nus-3d.py'
)

custom_imports = dict(imports=['mxd_mmplugin'])

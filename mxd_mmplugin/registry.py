"""The one table of what is registered, and the only place that writes into a registry."""

import importlib.util
from dataclasses import dataclass

from mmengine.registry import HOOKS, MODELS, Registry


@dataclass(frozen=True)
class Entry:
    """A class and the names that it is registered under.

    Attributes:
        registry (Registry): mmengine's registry or a child of it.
        name (str): the class's own name.
        cls (type): what is registered.
        swapped (bool): under `name` too, in place of another package's class; else under the
            explicit name alone.
        note (str): what it replaces, for the report.
    """

    registry: Registry
    name: str
    cls: type
    swapped: bool
    note: str

    @property
    def explicit_name(self) -> str:
        """The name that no other package uses, by which a config can choose this class alone."""
        return f'Mxd{self.name}' if self.swapped else self.name


@dataclass(frozen=True)
class Status:
    """What a registry holds under a name, for `mxd doctor`."""

    registry: str
    name: str
    swapped: bool
    cls: str
    note: str


def table() -> list:
    """All entries for the packages that are installed."""
    from . import modules
    from .engine.bev_hook import BEVPictureHook

    note = "in place of mmcv's, which has no CPU kernel, or spconv's"
    entries = [
        Entry(MODELS, cls.__name__, cls, True, note)
        for cls in (
            modules.SubMConv2d,
            modules.SubMConv3d,
            modules.SparseConv2d,
            modules.SparseConv3d,
        )
    ]
    entries.append(
        Entry(HOOKS, 'BEVPictureHook', BEVPictureHook, False, 'pictures of validation frames')
    )
    if importlib.util.find_spec('mmdet3d'):
        from mmdet3d.registry import TRANSFORMS

        from .datasets.db_sampler import DataBaseSampler

        note = "in place of mmdet3d's, which needs np.long"
        entries.append(Entry(TRANSFORMS, 'DataBaseSampler', DataBaseSampler, True, note))
    return entries


def register() -> None:
    """Register every entry of the table; again does nothing new."""
    if importlib.util.find_spec('mmdet3d'):
        # It registers spconv's layers over mmcv's when it is imported: let it be first.
        import mmdet3d.models.layers.spconv  # noqa: F401
    for entry in table():
        names = [entry.explicit_name, entry.name] if entry.swapped else [entry.explicit_name]
        entry.registry.register_module(name=names, module=entry.cls, force=True)


def status() -> list:
    """What the registries hold now under the names of the table.

    Returns:
        list[Status]: one for each swapped and each explicit name.
    """
    rows = []
    for entry in table():
        for name in dict.fromkeys([entry.name, entry.explicit_name]):
            cls = entry.registry.get(name)
            rows.append(
                Status(
                    entry.registry.name,
                    name,
                    cls is entry.cls,
                    f'{cls.__module__}.{cls.__qualname__}' if cls else 'nothing',
                    entry.note,
                )
            )
    return rows

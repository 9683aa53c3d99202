"""Where an operator is called from: the step of a training, the module of the model, the line of Python.

The software NPU runs this file in its own process (csrc/softnpu/aten/place.cpp), whatever else is imported there.
"""

import sys
from typing import Any

DEPTH = 3  # of a file's path, in what is shown
names: dict[int, tuple[Any, dict[int, str]]] = {}  # by model, its modules' names


def name_of(modules: list) -> str:
    """The dotted name in the outermost module of the innermost one that has one there."""
    model = modules[-1]
    known = names.get(id(model))
    if known is None or known[0] is not model:
        known = names[id(model)] = (model, {})
    for module in modules[:-1]:
        if id(module) not in known[1]:
            known[1].update((id(child), name) for name, child in model.named_modules())
        if id(module) in known[1]:
            return known[1][id(module)]
    return ''


def place() -> tuple:
    """Phase ('forward', 'optimizer' or 'validation'), name of the module, and 'file:line function'."""
    torch = sys.modules['torch']
    packages = (sys.modules[name].__path__[0] for name in ('torch', 'torch_npu'))
    skipped = '<', *packages
    line, phase = '', 'forward'
    modules: list[Any] = []
    frame = sys._getframe().f_back
    while frame is not None:
        code = frame.f_code
        if not line and not code.co_filename.startswith(skipped):
            file = '/'.join(code.co_filename.split('/')[-DEPTH:])
            line = f'{file}:{frame.f_lineno} {code.co_name}'
        if '/optim/' in code.co_filename:
            phase = 'optimizer'
        if code.co_varnames[:1] == ('self',):
            owner = frame.f_locals.get('self')
            if isinstance(owner, torch.nn.Module) and (not modules or modules[-1] is not owner):
                modules.append(owner)
        frame = frame.f_back
    if modules and not modules[-1].training and not torch.is_grad_enabled():
        phase = 'validation'
    return phase, name_of(modules) if modules else '', line

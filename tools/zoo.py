"""Which stock configs of mmdet3d make a training step and a prediction here, and why the others do not.

Each config is tried in a process of its own, on small generated input (see `zoo_inputs.py`), with the model as the
config has it and no pretrained weights, on the device that mmengine finds. What was found is kept in OUT, so that a run
goes on where the last one ended.

    python tools/zoo.py                                    # all of the installed mmdet3d's
    python tools/zoo.py second votenet --again             # those with a name in their path, once more
    python tools/zoo.py --failed                           # those that were not served
    python tools/zoo.py --without-plugin                   # mmdet3d alone
    MXD_SOFTNPU_STRICT=1 mxd softnpu run tools/zoo.py      # on the software NPU, nothing on the AI CPU or the host
    python tools/zoo.py --markdown docs/zoo.md             # writes the table, tries nothing
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Optional

import mmdet3d
import torch
from from_scratch import from_scratch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from tqdm import tqdm
from zoo_inputs import innermost, make_batch
from zoo_instances import make_instances

PACKAGES = Path(mmdet3d.__file__).parents[1]
CONFIGS = PACKAGES / 'mmdet3d' / '.mim' / 'configs'
STEPS = 'build', 'training step', 'prediction'
# A config of mmdet 2 has no data that mmdet 3 could load, but a model.
SERVED = 'yes', 'the model'
BEGIN, END = '<!-- begin: written by tools/zoo.py -->', '<!-- end -->'
COLUMNS = {
    'cpu': 'CPU',
    'npu': 'software NPU',
    'npu strict': 'software NPU, strict',
    'cpu without': 'CPU, mmdet3d alone',
}


def find_configs(folder: Path) -> list[str]:
    """The configs of a folder, without the parts that others are made of, as paths in it."""
    paths = (path.relative_to(folder) for path in folder.rglob('*.py'))
    return sorted(str(path) for path in paths if '_base_' not in path.parts)


def attempt(path: Path) -> str:
    """Build a config's model, train it for a step and predict.

    Returns:
        str: what of the config is served, one of `SERVED`.

    Raises:
        Exception: whatever stops it, with the name of the step in its attribute `step`.
    """
    step = STEPS[0]
    try:
        config = Config.fromfile(path)
        init_default_scope(config.get('default_scope', 'mmdet3d'))
        set_random_seed(0)
        whole = 'train_dataloader' in config
        batch, frame = (
            make_batch(config, training) if whole else make_instances(config.model, training)
            for training in (True, False)
        )
        from_scratch(config.model)
        from mmdet3d.registry import MODELS

        model = revert_sync_batchnorm(MODELS.build(config.model)).to(get_device())
        wrapper = build_optim_wrapper(model, config.optim_wrapper)
        step = STEPS[1]
        model.train()  # which of ImVoteNet returns nothing
        losses = model.train_step(batch, wrapper)
        if not torch.isfinite(losses['loss']):
            raise FloatingPointError(f'the loss is {losses["loss"].item()}')
        step = STEPS[2]
        model.eval()
        with torch.no_grad():
            model.val_step(frame)
        return SERVED[not whole]
    except Exception as error:
        error.step = step  # type: ignore[attr-defined]
        raise


def fingerprint(path: Path) -> str:
    """What a try depends on: of a config without its data files, its schedule and its hooks.

    Configs that have it in common, such as those of the six areas of S3DIS, are tried once.
    """
    try:
        config = Config.fromfile(path)
    except Exception:
        return str(path)
    parts = [config.model, config.get('optim_wrapper'), config.get('point_cloud_range')]
    if 'train_dataloader' in config:
        dataset = dict(innermost(config.train_dataloader.dataset))
        for name in 'data_root', 'ann_file', 'ann_files', 'data_prefix', 'scene_idxs':
            dataset.pop(name, None)
        parts += [dataset, config.get('train_pipeline'), config.get('class_names')]
    text = json.dumps(parts, default=repr, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def reason(error: BaseException) -> str:
    """The last line of an error, and the last place in a package of OpenMMLab that led to it."""
    line = ' '.join(str(error).split('\n\n')[0].split()).replace(f'{PACKAGES}/', '')
    text = f'{type(error).__name__}: {line}' if line else type(error).__name__
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if '/mmdet' in frame.filename or '/mmcv/' in frame.filename
    ]
    place = f' ({Path(frames[-1].filename).name}, {frames[-1].name})' if frames else ''
    return f'{getattr(error, "step", STEPS[0])}: {text[:200]}{place}'


def _child(path: Path, log: Path, pipe: Connection) -> None:
    """Try a config, with its output in a file, and tell what is served or why it fails."""
    with open(log, 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            pipe.send(dict(served=attempt(path)))
        except Exception as error:
            traceback.print_exc()
            pipe.send(dict(error=reason(error)))
        sys.stdout.flush()
        sys.stderr.flush()


def try_config(path: Path, log: Path, time_limit: float) -> dict[str, Any]:
    """Try a config in a process of its own.

    Args:
        path (Path): the config.
        log (Path): file for what it prints.
        time_limit (float): seconds until it is ended.

    Returns:
        dict: `served`, one of `SERVED`, or `error`, and `seconds`.
    """
    begin = time.monotonic()
    mine, its = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context('fork').Process(target=_child, args=(path, log, its))
    process.start()
    its.close()
    try:
        in_time = mine.poll(time_limit)
        found = mine.recv() if in_time else dict(error=f'more than {time_limit:g} s')
    except EOFError:
        process.join()
        found = dict(error=f'the process ended with status {process.exitcode}')
    process.kill()
    process.join()
    return dict(found, seconds=round(time.monotonic() - begin, 1))


def table(results: dict[str, dict[str, dict]]) -> str:
    """The results as Markdown: how many are served, and each config with what stops it.

    Args:
        results (dict): for each column of `COLUMNS`, for each config what `try_config` found.

    Returns:
        str: the text between the marks of the page.
    """
    columns = [column for column in COLUMNS if column in results]
    names = sorted({name for column in columns for name in results[column]})
    lines = [f'| of {len(names)} configs | {" | ".join(COLUMNS[column] for column in columns)} |']
    lines.append('| --- ' * (len(columns) + 1) + '|')
    for served in SERVED:
        counts = (
            sum(found.get('served') == served for found in results[column].values())
            for column in columns
        )
        lines.append(f'| {served} | {" | ".join(map(str, counts))} |')
    lines.append('')
    lines.append(f'| config | {" | ".join(COLUMNS[column] for column in columns)} |')
    lines.append('| --- ' * (len(columns) + 1) + '|')
    for name in names:
        cells = [_cell(results[column].get(name)) for column in columns]
        lines.append(f'| `{name[:-3]}` | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _cell(found: Optional[dict]) -> str:
    if found is None:
        return 'not tried'
    return found.get('served') or found['error'].replace('|', '\\|').replace('<', '&lt;')


def write_table(page: Path, results: dict[str, dict[str, dict]]) -> None:
    """Put the table between the marks of a page; a page that is not there is made."""
    text = page.read_text() if page.exists() else f'{BEGIN}\n{END}\n'
    before, rest = text.split(BEGIN)
    page.write_text(f'{before}{BEGIN}\n\n{table(results)}\n\n{END}{rest.split(END)[1]}')


def run(args: argparse.Namespace, column: str) -> None:
    """Try configs, one after the other, and keep what was found.

    Args:
        args (Namespace): of the command line.
        column (str): where in the table, one of `COLUMNS`.
    """
    folder, names, out = args.configs, args.names, args.out
    file = out / 'zoo.json'
    results = json.loads(file.read_text()) if file.exists() else {}
    found = results.setdefault(column, {})
    every = find_configs(folder)
    named = (path for name in names for path in every if name in path)
    paths = list(dict.fromkeys(named)) if names else every
    todo = [
        path
        for path in paths
        if args.again or path not in found or (args.failed and 'error' in found[path])
    ]
    progress = tqdm(todo, unit='config')
    alike: dict[str, dict] = {}
    for path in progress:
        progress.set_postfix_str(Path(path).stem[:50])
        log = out / column.replace(' ', '-') / path.replace('/', '--').replace('.py', '.log')
        log.parent.mkdir(parents=True, exist_ok=True)
        key = fingerprint(folder / path)
        if key not in alike:
            alike[key] = try_config(folder / path, log, args.time_limit)
        found[path] = alike[key]
        file.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')
        tqdm.write(f'{found[path]["seconds"]:6.1f} s  {path}: {_cell(found[path])}')
    counts = Counter('served' in found.get(path, {}) for path in paths)
    print(f'{counts[True]} of {len(paths)} served; {file}')


def main() -> None:
    """Parse the command line; try the configs or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'names', nargs='*', help='parts of the paths of the configs to try, in this order'
    )
    parser.add_argument('--again', action='store_true', help='also those that were tried before')
    parser.add_argument('--failed', action='store_true', help='also those that were not served')
    parser.add_argument('--configs', type=Path, default=CONFIGS, help='folder of the configs')
    parser.add_argument('--without-plugin', action='store_true', help='do not import mxd_mmplugin')
    parser.add_argument('--time-limit', type=float, default=300, help='seconds for a config')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/zoo'))
    parser.add_argument('--markdown', type=Path, help='the page to write the table into')
    args = parser.parse_args()
    if args.markdown:
        write_table(args.markdown, json.loads((args.out / 'zoo.json').read_text()))
        return
    # Once, for all processes. Without the plugin the models are imported by themselves.
    import mmdet3d.models  # noqa: F401

    if not args.without_plugin:
        import mxd_mmplugin  # noqa: F401
    strict = get_device() == 'npu' and os.environ.get('MXD_SOFTNPU_STRICT') == '1'
    run(args, get_device() + ' strict' * strict + ' without' * args.without_plugin)


if __name__ == '__main__':
    main()

# SPDX-License-Identifier: MIT
# npy-numpy.py COPY: passes arrays through npy-copy, both ends in NumPy's hands.
import os
import subprocess
import sys
import tempfile

import numpy as np

copy = sys.argv[1]
folder = tempfile.TemporaryDirectory()
source = os.path.join(folder.name, 'source.npy')
target = os.path.join(folder.name, 'target.npy')


def run(*dtype):
    return subprocess.run([copy, source, target, *dtype], capture_output=True, text=True)


def write(array, version):
    with open(source, 'wb') as f:
        np.lib.format.write_array(f, array, version=version)


rng = np.random.default_rng()
shapes = [(), (0,), (1,), (7,), (3, 5), (2, 0, 4), (2, 3, 4), (1, 2, 1, 2, 1, 2, 1, 2)]
for dtype in ['<f2', '<f4', 'i1', 'u1', '<i4', '<i8']:
    for shape in shapes:
        for version in [(1, 0), (2, 0), (3, 0)]:
            array = np.array(rng.uniform(-100, 100, shape)).astype('i1').astype(dtype)
            write(array, version)
            done = run()
            assert done.returncode == 0, (dtype, shape, version, done.stderr)
            back = np.load(target)
            assert back.dtype == array.dtype and back.shape == array.shape
            assert back.tobytes() == array.tobytes()

values = rng.standard_normal((4, 33)).astype('<f4')
write(values, (1, 0))
assert run('f16').returncode == 0
assert np.load(target).tobytes() == values.astype('<f2').tobytes()
assert run('bf16').returncode == 0
assert np.abs(np.load(target) / values - 1).max() <= 1 / 256

refused = {
    'Fortran order': np.asfortranarray(values),
    'big-endian': values.astype('>f4'),
    'Python objects': np.array([None, 1], dtype=object),
    'unicode': np.array(['a', 'bc']),
    'structured': np.zeros(3, dtype=[('a', '<f4'), ('b', '<i4')]),
    "no dtype '<f8'": values.astype('<f8'),
    'more than 8': np.zeros((1,) * 9, dtype='<f4'),
}
for reason, array in refused.items():
    np.save(source, array, allow_pickle=True)
    done = run()
    assert done.returncode == 1 and reason in done.stderr, (reason, done)
np.savez(os.path.join(folder.name, 'z'), a=values)
os.rename(os.path.join(folder.name, 'z.npz'), source)
assert '.npz' in run().stderr

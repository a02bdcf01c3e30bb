"""Ways out of eager PyTorch and ways to many processes: export, jit, torch.func, DDP, FSDP2, meta, checkpoints."""

import copy
import io
import pickle
import shutil
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from written import written

from t2ilayers import SemanticAffineBN
from t2ilayers.layers import ActivatedBatchNorm, MatchingHead
from t2ilayers.losses import matching_aware_gradient_penalty
from t2ilayers.training import synchronize_statistics

from subjects import SUBJECTS, first, inputs, make

NORMS = [name for name in SUBJECTS if any(isinstance(part, nn.BatchNorm2d) for part in make(name).modules())]


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.export's own
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SUBJECTS)
def test_exported_with_any_batch_saved_and_loaded(name, training):
    module = make(name).train(training)
    again = make(name).train(training)
    given = tuple(t.detach() for t in inputs(name))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, given, dynamic_shapes=tuple({0: batch} for _ in given))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    more = tuple(torch.cat([t, t[:2]]) for t in given)
    loaded = torch.export.load(file).module()
    assert_equal(first(loaded(*more)), written(again, *more))
    for key, buffer in again.named_buffers():
        assert_equal(dict(loaded.named_buffers())[key], buffer)


@pytest.mark.slow  # C++ of a whole network: half a minute
@pytest.mark.skipif(shutil.which("c++") is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch.export's own
@pytest.mark.parametrize("name", ["SSAGenerator", "MatchingAwareDiscriminator"])
def test_compiled_ahead_of_time_with_any_batch(name, tmp_path):
    module = make(name).eval()
    given = tuple(t.detach() for t in inputs(name))
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    with torch.no_grad():
        program = torch.export.export(module, given, dynamic_shapes=(batch, batch))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        compiled = torch._inductor.aoti_load_package(package)
        for n in (1, 4, 6):
            some = tuple(torch.cat([t, t.flip(0)])[:n] for t in given)
            assert_equal(first(compiled(*some)), written(make(name).eval(), *some))


@pytest.mark.parametrize("name", SUBJECTS)
def test_traced_by_jit_and_saved(name):
    module, given = make(name).eval(), tuple(t.detach() for t in inputs(name))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit's deprecation, and that checks of shapes become constants
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(module, given), file)
        file.seek(0)
        assert_equal(first(torch.jit.load(file)(*given)), written(module, *given))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", SUBJECTS)
def test_gradients_of_each_sample_by_vmap_over_grad(name):
    module, given = make(name).eval(), tuple(t.detach() for t in inputs(name))
    parameters = {key: p.detach() for key, p in module.named_parameters()}

    def loss(parameters, *sample):
        y = torch.func.functional_call(module, parameters, tuple(t[None] for t in sample))
        return first(y).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, *(0 for _ in given)))(parameters, *given)
    for i in range(2):
        one = tuple(t[i : i + 1] for t in given)
        right = torch.autograd.grad(written(module, *one).square().sum(), list(module.parameters()))
        for key, expected in zip(parameters, right, strict=True):
            assert_equal(found[key][i], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", SUBJECTS)
def test_many_models_at_once_by_vmap_over_parameters(name):
    models, given = [make(name, seed=seed).eval() for seed in range(2)], tuple(t.detach() for t in inputs(name))
    parameters, buffers = torch.func.stack_module_state(models)

    def call(parameters, buffers):
        return first(torch.func.functional_call(models[0], (parameters, buffers), given))

    found = torch.func.vmap(call)(parameters, buffers)
    for y, model in zip(found, models, strict=True):
        assert_equal(y, written(model, *given))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SUBJECTS)
def test_many_gradients_at_once(name, training):
    module, again = (make(name).train(training) for _ in range(2))
    given, same = inputs(name), inputs(name)

    def gradients(y, x, parameters):
        basis = torch.eye(3, y.numel(), dtype=y.dtype).view(3, *y.shape)
        return torch.autograd.grad(y, (x, *parameters), basis, is_grads_batched=True, allow_unused=True)

    found = gradients(first(module(*given)), given[0], module.parameters())
    expected = gradients(written(again, *same), same[0], again.parameters())
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_equal(a, b)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SUBJECTS)
def test_norms_of_all_gradients_have_gradients(name, training):
    """As a penalty on the gradients of parameters takes them, or one step of gradient descent inside another."""
    module, again = (make(name).train(training) for _ in range(2))

    def gradients(y, given, parameters):
        wanted = [t for t in (*given, *parameters) if t.requires_grad]
        slopes = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
        norm = sum(slope.square().sum() for slope in slopes)
        return torch.autograd.grad(norm, wanted, materialize_grads=True)

    given, same = inputs(name), inputs(name)
    found = gradients(first(module(*given)), given, module.parameters())
    expected = gradients(written(again, *same), same, again.parameters())
    scale = max(float(right.abs().max()) for right in expected)
    for a, b in zip(found, expected, strict=True):  # the bias before a batch norm has rounding only
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * scale)


@pytest.mark.parametrize("name", SUBJECTS)
def test_made_on_the_meta_device_and_reset_it_is_a_fresh_layer(name):
    build = SUBJECTS[name][0]
    with torch.device("meta"):
        module = build()
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(7)
    for part in reversed(list(module.modules())):  # as model.apply: inner modules first
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    fresh = build()
    for (key, found), right in zip(module.state_dict().items(), fresh.state_dict().values(), strict=True):
        assert (found != 7).all(), key
        if (right.numel() > 1 and (right == right.flatten()[0]).all()) or key.endswith(("gamma", "tracked")):
            assert torch.equal(found, right), key  # what starts at zero or one
        elif right.numel() > 1:
            assert found.std() > 0, key


def test_layers_take_a_device_and_a_dtype():
    for make_layer in (SemanticAffineBN, ActivatedBatchNorm):
        layer = make_layer(4, **({"activation": "relu"} if make_layer is ActivatedBatchNorm else {}),
                           device="meta", dtype=torch.float64)  # fmt: skip
        tensors = [t for t in layer.state_dict().values() if t.is_floating_point()]
        assert {(t.device.type, t.dtype) for t in tensors} == {("meta", torch.float64)}


def test_checkpoints_of_before_load():
    """Running statistics were entries of the layer itself, and ActivatedBatchNorm was a batch norm."""
    norm, other = make("SemanticAffineBN"), make("SemanticAffineBN", seed=3)
    old = {key.replace("normalize.", ""): t for key, t in norm.state_dict().items() if "num_batches" not in key}
    assert {"running_mean", "running_var"} <= set(old)
    other.load_state_dict(old)
    for key, tensor in norm.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor)

    block, other = make("SSAConv"), make("SSAConv", seed=3)
    old = {
        key.replace("normalize.", ""): t
        for key, t in block.state_dict().items()
        if not key.endswith("normalize.num_batches_tracked")
    }
    other.load_state_dict(old)
    given = inputs("SSAConv")
    assert torch.equal(other.eval()(*given)[0], block.eval()(*given)[0])

    plain, activated = nn.BatchNorm2d(4), ActivatedBatchNorm(4, "relu")
    for tensor in plain.parameters():
        nn.init.normal_(tensor)
    plain(torch.randn(4, 4, 3, 3))
    activated.load_state_dict(plain.state_dict())
    x = torch.randn(4, 4, 3, 3)
    torch.testing.assert_close(activated.eval()(x), plain.eval()(x).relu())
    with pytest.raises(RuntimeError, match="size mismatch"):
        activated.load_state_dict(nn.BatchNorm2d(5).state_dict())


@pytest.fixture
def alone():
    """A process group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize("name", NORMS)
def test_copies_of_layers_that_share_statistics(name, alone):
    module, given = make(name), inputs(name)
    again = make(name)
    synchronize_statistics(module, alone)
    copied = copy.deepcopy(module)
    groups = [part.process_group for part in copied.modules() if hasattr(part, "process_group")]
    assert groups
    assert all(group is alone for group in groups)
    assert_equal(first(copied(*given)), written(again, *given))
    with pytest.raises(TypeError, match=r"shares statistics over a process group, .* state_dict\(\)"):
        pickle.dumps(module)
    synchronize_statistics(module, None)
    assert_equal(first(pickle.loads(pickle.dumps(module))(*given)), written(make(name), *given))


def test_ddp_of_a_discriminator_with_the_penalty_as_a_step_of_its_own(alone):
    name = "MatchingAwareDiscriminator"
    plain, module = make(name), make(name)
    wrapped = DistributedDataParallel(module)
    images, cond = (t.detach() for t in inputs(name))
    for discriminator, model in ((plain, plain), (wrapped, module)):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            (-discriminator(images, cond)).relu().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            matching_aware_gradient_penalty(discriminator, images, cond).backward()
            optimizer.step()
    for a, b in zip(plain.parameters(), module.parameters(), strict=True):
        assert_equal(b, a)


@pytest.mark.parametrize("units", ["whole", "blocks", "norms"])
def test_fsdp_of_a_generator(units, alone):
    plain, module = make("SSAGenerator"), make("SSAGenerator")
    mesh = init_device_mesh("cpu", (1,))
    for block in module.blocks:
        if units == "norms":
            fully_shard(block.norm1, mesh=mesh)
        if units != "whole":
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    given, same = inputs("SSAGenerator"), inputs("SSAGenerator")
    y, expected = module(*given).images, written(plain, *same)
    assert_equal(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(module.parameters(), plain.parameters(), strict=True):
        assert_equal(a.grad.full_tensor(), b.grad)


def test_matching_head_on_any_grid_and_with_maps():
    torch.manual_seed(0)
    head = MatchingHead(6, 4, 5, size=(7, 5), kernel_size=4, padding=0).double()
    features, cond = torch.randn(2, 6, 7, 5).double(), torch.randn(2, 5).double()
    assert_equal(head(features, cond), written(head, features, cond))
    maps = torch.randn(2, 5, 7, 5).double()
    joint = torch.cat([features, maps], 1)
    assert_equal(head(features, maps), head.layers(joint).flatten())
    assert not torch.allclose(head(features, maps), head(features, cond))
    with pytest.raises(ValueError, match=r"features must be \(N, 6, 7, 5\)"):
        head(torch.randn(2, 6, 7, 7), cond)
    with pytest.raises(ValueError, match=r"kernel_size must be at most size \+ 2 \* padding = 3, got 4"):
        MatchingHead(6, 4, 5, size=3, kernel_size=4, padding=0)

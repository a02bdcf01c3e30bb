"""What importing does and does not do, which way imports go, and the public names."""

import ast
import graphlib
import importlib.util
import pathlib
import subprocess
import sys

import pytest

import t2ilayers

ORDER = [
    *(
        "_files",
        "_hub",
        "figures",
        "ops",
        "layers",
        "_weights",
        "words",
        "vocabulary",
        "_pretrained",
        "encoders",
        "models",
    ),
    *("losses", "data", "metrics", "allocator", "training", "interop"),
]
# The packages in this order import only ones before them, so each needs a fresh process to be judged: one that is
# forked where nothing but torch is loaded. The package's own __init__ shows the public names, and so loads models
# and what they need. An empty stand-in for it leaves what each itself asks for.
PROBE = """
import importlib, os, sys, types, torch

def refuse(*args):
    raise AssertionError("importing touched CUDA")

torch.cuda._lazy_init = torch.cuda.device_count = torch.cuda.is_available = refuse
stub = sys.modules["t2ilayers"] = types.ModuleType("t2ilayers")
stub.__path__ = [sys.argv[1]]
for name in sys.argv[2:]:
    if os.fork() == 0:
        importlib.import_module(f"t2ilayers.{name}")
        extras = {"PIL", "matplotlib", "scipy", "tensorboard", "tyro", "torchvision"}
        heavy = sorted(extras & set(sys.modules))
        assert not heavy, f"importing loaded extras: {heavy}"
        print(name, *sorted({m.split(".")[1] for m in sys.modules if m.startswith("t2ilayers.")}), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def probed():
    """What each package loads, and why others do not load."""
    command = [sys.executable, "-W", "error", "-c", PROBE, *t2ilayers.__path__, *ORDER]
    result = subprocess.run(command, capture_output=True, text=True)
    return {line.split()[0]: set(line.split()[1:]) for line in result.stdout.splitlines()}, result.stderr


@pytest.mark.parametrize("name", ORDER)
def test_a_package_imports_only_those_before_it(name, probed):
    loaded, errors = probed
    assert name in loaded, errors
    assert name in loaded[name]
    assert loaded[name] <= set(ORDER[: ORDER.index(name) + 1])


def imports_of(name, path, files):
    """The package's own modules that the source of one names, wherever in it an import stands."""
    tree = ast.parse(path.read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            members = {f"{origin}.{alias.name}" for alias in node.names}
            # `from .ops import build` needs the module; `from .ops import conv2d` the package that shows it.
            found |= {member if member in files else origin for member in members}
    return {f for f in found if f in files} - {name}


def test_the_import_graph_has_no_circle_not_even_through_functions():
    root = pathlib.Path(t2ilayers.__path__[0])
    files = {
        ".".join(("t2ilayers", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    graph = {name: imports_of(name, path, files) for name, path in files.items()}
    assert "t2ilayers.ops._reference" in graph["t2ilayers.ops._native"]
    graphlib.TopologicalSorter(graph).prepare()  # CycleError, with the circle


def test_importing_builds_nothing_and_prints_nothing():
    code = "import sys, t2ilayers; assert 'torch.utils.cpp_extension' not in sys.modules"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


PUBLIC = {
    "t2ilayers": (
        "MaskPredictor MatchingAwareDiscriminator SSAConv SSAGAN SSAGANConfig SSAGenerator SemanticAffineBN "
        "__version__"
    ),
    "t2ilayers.ops": (
        "Activation Impl Scale Stats affine_chain average_pool2d check_activation conv2d leaky_relu "
        "masked_affine_norm"
    ),
    "t2ilayers.layers": (
        "ActivatedBatchNorm AdaptiveGroupNorm2d AdaptiveInstanceNorm2d AttentionMatchingHead "
        "ConditionalBatchNorm2d ConditionalNorm2d Conv2d DFAffineBlock DownBlock FiLM2d FusedSequential LeakyReLU "
        "MaskPredictor MatchingHead PreActivationBlock ProjectionHead SPADE2d SSAConv SelfAttention2d "
        "SemanticAffineBN SpectralConv2d SpectralEmbedding SpectralLinear SpectralNorm affine_parameters "
        "chain_parameters set_gates whiten"
    ),
    "t2ilayers.encoders": (
        "ConvImageEncoder EfficientNetLite0 EmptyCaptionError EncoderPair ImageFeatures InceptionImageEncoder "
        "LSTMTextEncoder TextFeatures UnknownWordError Vocabulary tokenize"
    ),
    "t2ilayers.models": (
        "BigGANBlock BigGANDeepBlock BigGANDiscriminator BigGANGenerator BridgeBlock CLIPAdapter CLIPBlock "
        "CLIPFeatures CLIPImageEncoder CLIPMapper DFBlock DFGenerator FeatureDiscriminator GALIPDiscriminator "
        "GALIPGenerator GeneratorOutput MatchingAwareDiscriminator MultiscaleDiscriminator "
        "PatchDiscriminator PatchOutput ProjectionBlock ProjectionDiscriminator ProjectionGenerator RATGenerator "
        "RecurrentCondition SPADEBlock SPADEGenerator SSAGAN SSAGANConfig SSAGenerator SSAGeneratorOutput"
    ),
    "t2ilayers.losses": (
        "AdversarialLoss DAMSMLoss HingeLoss SentenceLoss damsm_loss feature_matching_loss gradient_penalty "
        "hinge_discriminator_loss hinge_generator_loss logistic_discriminator_loss logistic_generator_loss "
        "matching_aware_gradient_penalty mismatched_pairs sentence_loss wasserstein_discriminator_loss"
    ),
    "t2ilayers.data": (
        "ATTRIBUTES BACKGROUNDS Batch BatchDataset COCODataset COLOURS CUBDataset CaptionFolder CaptionShards "
        "CaptionedDataset CaptionedShapes DatasetError "
        "ObjectAttributes PLACES SHAPES SIZES Sample SceneAttributes TEXTURES collate "
        "named_attributes open_dataset"
    ),
    "t2ilayers.metrics": (
        "ATTRIBUTES ATTRIBUTE_CHANCE AttributeClassifier AttributeLogits CLIPEncoder DensityCoverage "
        "GaussianStatistics InceptionScore InceptionV3 JudgedImages KernelDistance Nearest OutsideJudge PROTOCOLS "
        "PictureStatistics Protocol RPrecision StageIoU StageIoUs StreamingStatistics attribute_accuracy "
        "conditional_frechet_distance data_copying density_coverage foreground_on_white frechet_distance "
        "inception_score kernel_distance mask_iou nearest_features prompt_diversity r_precision stage_ious "
        "train_attribute_classifier vendi_score"
    ),
    "t2ilayers.training": (
        "CLIPSimilarity DAMSM DiffAugment EMA EncoderStep MatchingAwareConfig MatchingAwareStep MetricsLog "
        "NonFiniteLossError Processes Run RunConfig SSAGANStep StepConfig TextImageLoss fastest_precision "
        "join_processes keep_large_blocks latest_checkpoint load_checkpoint open_standard_streams save_checkpoint "
        "say synchronize_statistics"
    ),
    "t2ilayers.interop.official": (
        "export load_discriminator load_generator load_image_encoder load_layer load_text_encoder"
    ),
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_these(module):
    __import__(module)
    assert sorted(sys.modules[module].__all__) == sorted(PUBLIC[module].split())

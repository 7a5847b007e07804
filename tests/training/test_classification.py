"""Finished networks on pictures: by their files alone, and with classes that are known by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from nas import cli, pipeline
from nas.architecture import Architecture
from nas.data import load_dataset, open_source
from nas.data.augmentation import normalise
from nas.data.splits import split_source
from nas.deploy.card import Card
from nas.deploy.delivered import FILES, write_delivered
from nas.deploy.description import Description, class_order, describe_weights
from nas.deploy.export import to_checked_onnx, to_onnx
from nas.deploy.pretrained import read_pretrained
from nas.deploy.weights import save_weights
from nas.errors import UserError
from nas.machine import nas_version
from nas.network import build
from nas.preprocessing import Preprocessing
from nas.training.classification import classify
from nas.training.distillation import load_teacher, teacher_accuracy
from nas.training.evaluation import accuracy
from nas.training.retraining import Retraining
from nas.training.settings import SupernetSettings

CLASSES, PICTURES, SIDE = 12, 400, 32
"""More than ten classes: as text "10" stands before "2", as numbers behind it."""


@pytest.fixture(scope="module")
def small(tiny_space):
    return tiny_space.decode(tiny_space.uniform(0.5)).with_classes(CLASSES)


@pytest.fixture(scope="module")
def pictures():
    """Pictures of one colour with some noise, (N, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (PICTURES, 1, 1, 3))
    noise = rng.integers(-30, 31, (PICTURES, SIDE, SIDE, 3))
    return np.clip(colours + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network(small, pictures, randomized):
    """A network that finds every class among these pictures."""
    images = normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    for seed in range(20):
        torch.manual_seed(seed)
        network = randomized(build(small)).eval()
        head = network.get_submodule("head")
        with torch.no_grad():
            logits = network(images)
            for linear in (head.head, head.head_dist):  # their mean is the network's answer
                linear.bias.sub_(logits.mean(0)).div_(logits.std(0))
                linear.weight.div_(logits.std(0)[:, None])
            found = np.bincount(network(images).argmax(1).numpy(), minlength=CLASSES)
        if min(found) >= 5:
            return network
    raise AssertionError("no seed gives a network that finds every class")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small, pictures, network):
    """A folder with ``photos``, the same as ``photos.parquet``, and a network that knows them.

    The label of a picture is what the network says of it: its accuracy is 1.
    """
    folder = tmp_path_factory.mktemp("classes")
    images = normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    names = sorted(map(str, range(CLASSES)))  # as a folder has them
    with torch.no_grad():
        labels = [int(names[place]) for place in network(images).argmax(1)]
    encoded = []
    for index, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        place = folder / "photos" / str(label) / f"{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
        encoded.append(place.read_bytes())
    pq.write_table(pa.table({"image": encoded, "label": labels}), folder / "photos.parquet")
    small.save(folder / "a.json")
    save_weights(network, folder / "w.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call("retrain", "--architecture", "a.json", "--weights", "w.safetensors", "--data",
             "folder:photos", "--epochs", "1", "--head-epochs", "0", "--learning-rate", "1e-12",
             "--run", "run")  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def _inside(trained, monkeypatch):
    monkeypatch.chdir(trained)


def call(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nas", *arguments])
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        cli.main()


def output(capsys, *arguments):
    capsys.readouterr()
    call(*arguments, "--json")
    return json.loads(capsys.readouterr().out)


WEIGHTS = ["--architecture", "run/architecture.json", "--weights", "run/weights.safetensors"]


@pytest.mark.parametrize("data", ["folder:photos", "parquet:photos.parquet"])
def test_the_order_of_the_classes_does_not_matter(capsys, data):
    found = output(capsys, "evaluate", *WEIGHTS, "--data", data)
    assert found["test_accuracy"] == 1.0


@pytest.mark.parametrize("model", ["run/delivered", "run/delivered/model.onnx"])
@pytest.mark.parametrize("data", ["folder:photos", "parquet:photos.parquet"])
def test_a_model_is_evaluated_as_its_weights_are(capsys, model, data):
    found = output(capsys, "evaluate", model, "--data", data)
    assert (found["test_accuracy"], found["data"]) == (1.0, data)
    note = "parquet:photos.parquet has its classes in another order"
    assert found["note"] == (note if data.startswith("parquet") else None)


def test_what_a_network_was_trained_on_is_what_it_is_evaluated_on(capsys, trained):
    for arguments in (WEIGHTS, ["run/delivered"]):
        assert output(capsys, "evaluate", *arguments)["data"] == "folder:photos"
    unnamed = ["--architecture", "a.json", "--weights", "w.safetensors"]
    assert complaint(capsys, "evaluate", *unnamed) == (
        "nas: w.safetensors: does not say what it was trained on; name the images: --data digits, "
        "shapes, folder:PATH, parquet:PATH, hf:NAME"
    )
    found = output(capsys, "evaluate", *unnamed, "--data", "folder:photos")
    assert found["test_accuracy"] == 1.0
    assert found["note"] == (
        "w.safetensors does not name its classes: they are taken in the order of folder:photos"
    )


def complaint(capsys, *arguments):
    """The one line that a mistaken call prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    *before, line = printed.splitlines()
    assert all("training images" in it for it in before), printed
    return line


@pytest.fixture(scope="module")
def others(trained):
    """The same pictures by other names of the classes, but for one."""
    for place in (trained / "photos").iterdir():
        other = trained / "others" / (place.name if place.name == "7" else f"kind {place.name}")
        shutil.copytree(place, other)
    return "folder:others"


OTHER = (
    "tells other classes apart than {}: does not know 'kind 0', 'kind 1', 'kind 10' and 8 more, "
)
OTHER += "knows '0', '1', '10' and 8 more beside them"
TEACHING = ["retrain", "--run", "x", "--architecture", "a.json", "--epochs", "1", "--data",
            "folder:others", "--teacher"]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "where", "data"),
    [
        (["evaluate", *WEIGHTS, "--data", "folder:others"], WEIGHTS[-1], "folder:others"),
        (
            ["evaluate", "run/delivered", "--data", "folder:others"],
            "run/delivered",
            "folder:others",
        ),
        (
            [*TEACHING, "run/architecture.json:run/weights.safetensors"],
            "teacher 'run/architecture.json:run/weights.safetensors'",
            "its student",
        ),
        ([*TEACHING, "run/delivered"], "teacher 'run/delivered'", "its student"),
    ],
)
def test_other_classes_are_refused_in_one_line(capsys, trained, others, arguments, where, data):
    assert complaint(capsys, *arguments) == f"nas: {where}: {OTHER.format(data)}"
    assert not Path("x").exists()


@pytest.mark.parametrize(
    "teacher", ["run/architecture.json:run/weights.safetensors", "run/delivered/model.onnx"]
)
def test_a_teacher_answers_in_the_order_of_its_students_classes(trained, teacher):
    dataset = load_dataset("parquet:photos.parquet", SIDE)
    teach = load_teacher(teacher, classes=dataset.classes, image_size=SIDE)
    assert teacher_accuracy(teach, dataset.test) == 1.0


def test_pretrained_weights_follow_the_order_of_the_classes(trained, small):
    dataset = load_dataset("parquet:photos.parquet", SIDE)
    found = read_pretrained("run/weights.safetensors", small, dataset.classes)
    assert found.notes == (
        "their classes stand in another order: the classifier's rows follow by name",
    )
    network = build(small)
    found.load_into(network)
    assert accuracy(network, dataset.test) == 1.0


def test_a_classifier_of_other_classes_starts_afresh_although_their_number_is_the_same(
    trained, small
):
    names = [f"kind {place}" for place in range(CLASSES)]
    found = read_pretrained("run/weights.safetensors", small, names)
    assert {name.split(".")[0] for name in found.fresh} == {"head"}
    assert not found.state.keys() & found.fresh
    (note,) = found.notes
    assert note == (
        "their classifier tells other classes apart ('0', '1', '10' and 9 more): it starts afresh"
    )
    assert not read_pretrained("run/weights.safetensors", small).fresh, "nobody asked for names"


@pytest.fixture(scope="module")
def supernet(trained, tiny_space):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        settings = SupernetSettings(epochs=1, random_subnets=0)
        return pipeline.train(tiny_space, "supernet", data="folder:photos", settings=settings)


def test_what_a_supernet_hands_down_follows_the_order_of_the_classes(supernet, small):
    rows = {}
    for spec in ("folder:photos", "parquet:photos.parquet"):
        begun, dataset = Retraining.begin(
            Path(f"from {spec[:6]}"), small, supernet=supernet, images={"spec": spec}
        )
        weight = begun.start().get_submodule("head").head.weight
        rows[spec] = dict(zip(dataset.classes, weight, strict=True))
    first, second = rows.values()
    assert list(first) != list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["2"], first["10"])


def test_a_supernet_of_other_classes_hands_nothing_down(supernet, small, others):
    with pytest.raises(UserError) as error:
        Retraining.begin(Path("x"), small, supernet=supernet, images={"spec": others})
    assert str(error.value) == f"supernet: {OTHER.format('folder:others')}; leave --from out"


def test_classes_that_share_a_name_are_matched_in_one_order_only():
    twice = ["crane", "heron", "crane"]
    assert class_order(twice, twice, where="w", data="d") is None
    rule = "w: some of its classes have the same name, and stand in another order than those of d"
    with pytest.raises(UserError, match=f"^{rule}$"):
        class_order(twice, ["heron", "crane", "crane"], where="w", data="d")


def test_the_file_alone_agrees_with_evaluate(capsys, trained):
    """Plain onnxruntime in a default session, on labels of which a part is wrong."""
    for place in sorted((trained / "photos").glob("*/*.png")):
        index = int(place.stem)
        name = str((int(place.parent.name) + 1) % CLASSES) if index % 4 == 0 else place.parent.name
        wrong = trained / "quarter" / name / place.name
        wrong.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place, wrong)
    expected = output(capsys, "evaluate", "run/delivered", "--data", "folder:quarter")
    assert 0.6 < expected["test_accuracy"] < 0.9
    assert expected.pop("next") == "nas classify run/delivered PICTURE.jpg"
    found = output(capsys, "evaluate", *WEIGHTS, "--data", "folder:quarter")
    assert found.pop("remark"), "these are not the test images of the training"
    assert found.pop("next").startswith("nas export --architecture run/architecture.json ")
    assert found == expected
    session = onnxruntime.InferenceSession("run/delivered/model.onnx")
    told = {key: json.loads(it) for key, it in session.get_modelmeta().custom_metadata_map.items()}
    source = open_source("folder:quarter")
    hits = []
    for index in split_source(source, seed=0).test:
        place = Path(source.train.place(index))
        pixels = np.asarray(Image.open(place).convert("RGB"), np.float32) / 255  # 32 px as they are
        images = ((pixels - told["mean"]) / told["std"]).transpose(2, 0, 1)[None]
        (logits,) = session.run(["logits"], {"images": images.astype(np.float32)})
        hits.append(told["classes"][logits[0].argmax()] == place.parent.name)
    assert np.mean(hits) == pytest.approx(expected["test_accuracy"])
    places = [source.train.place(index) for index in split_source(source, seed=0).test]
    said = [line.rpartition(": ")[2].split(" ")[0] for line in said_by_the_script(*places)]
    right = [name == Path(place).parent.name for name, place in zip(said, places, strict=True)]
    assert right == hits


def said_by_the_script(*pictures):
    """The lines that the delivered ``classify.py`` prints, without this package in reach."""
    return subprocess.run(
        [sys.executable, "run/delivered/classify.py", *pictures],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""},
    ).stdout.splitlines()  # fmt: skip


def gradient(width, height):
    """Red grows to the right, green downwards, with dots that make directions differ."""
    red = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    green = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    pixels = np.stack([red, green, 255 - red], 2).astype(np.uint8)
    pixels[: height // 4, : width // 4] = 200, 20, 90
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory):
    """Pictures as cameras, drawing programs and scanners leave them."""
    folder = tmp_path_factory.mktemp("odd pictures")
    photo, exif = gradient(90, 60), Image.Exif()
    exif[0x0112] = 6  # lies on its side
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 90, dtype=np.uint8), (60, 1)))
    seen_through = photo.copy()
    seen_through.putalpha(alpha)
    grey_seen_through = photo.convert("L")
    grey_seen_through.putalpha(alpha)
    photo.save(folder / "plain.png")
    photo.save(folder / "camera.jpg", exif=exif, quality=90)
    gradient(900, 700).save(folder / "large.jpg", quality=90)
    photo.convert("L").save(folder / "grey.png")
    photo.convert("L").save(folder / "grey.jpg")
    photo.convert("CMYK").save(folder / "print.jpg")
    seen_through.save(folder / "transparent.png")
    grey_seen_through.save(folder / "grey transparent.png")
    photo.convert("P").save(folder / "palette.png", transparency=bytes(range(256)))
    photo.convert("1").save(folder / "black and white.png")
    return sorted(folder.iterdir())


def test_the_script_beside_a_model_says_what_nas_classify_says(capsys, trained, odd_pictures):
    call("classify", "run/delivered", *map(str, odd_pictures))
    expected = capsys.readouterr().out.splitlines()
    assert said_by_the_script(*odd_pictures) == expected
    assert len({line.rpartition(": ")[2] for line in expected}) >= 7, "they differ"
    assert expected[0].startswith(f"{odd_pictures[0]}: ")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_the_script_refuses_numbers_that_pillow_would_cut_off_at_255(tmp_path, trained, kind):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((SIDE, SIDE), 40_000, kind)).save(path)
    with pytest.raises(subprocess.CalledProcessError) as error:
        said_by_the_script(path)
    assert "has more than 8 bits per channel" in error.value.stderr


def test_classify_tells_machines_every_class(capsys, trained, odd_pictures, network):
    (first, _) = output(capsys, "classify", "run/delivered/model.onnx", *map(str, odd_pictures[:2]))
    assert first["picture"] == str(odd_pictures[0])
    chances = [it["probability"] for it in first["chances"]]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1, abs=1e-5)
    assert (first["class"], first["probability"]) == (first["chances"][0]["name"], chances[0])
    assert {it["name"] for it in first["chances"]} == set(map(str, range(CLASSES)))
    square = Image.open(odd_pictures[0]).convert("RGB").resize((SIDE, SIDE), 3, (15, 0, 75, 60))
    images = normalise(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])
    with torch.no_grad():
        expected = network(images).softmax(1)[0]
    names = sorted(map(str, range(CLASSES)))
    told = {it["name"]: it["probability"] for it in first["chances"]}
    assert [told[name] for name in names] == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_script_reads_crop_and_interpolation_from_the_model(
    tmp_path, trained, odd_pictures, network
):
    model, _ = to_checked_onnx(network, (3, SIDE, SIDE))
    seen = Preprocessing(
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), crop=0.8, interpolation="lanczos"
    )
    architecture = Architecture.load("a.json").with_preprocessing(seen)
    described = Description.of(architecture, classes=sorted(map(str, range(CLASSES))))
    card = Card("it", "none", {}, 1, 1, "nas retrain")
    write_delivered(tmp_path, architecture, network, model, described, card)
    command = [sys.executable, tmp_path / "classify.py", odd_pictures[-1]]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (expected,) = classify(tmp_path, odd_pictures[-1:])
    (usual,) = classify(Path("run/delivered"), odd_pictures[-1:])
    assert usual.chances != expected.chances
    told = ", ".join(f"{it.name} {100 * it.probability:.1f} %" for it in expected.chances[:3])
    assert found == f"{odd_pictures[-1]}: {told}\n"


def test_files_say_how_to_feed_them(trained):
    model = onnx.load("run/delivered/model.onnx")
    told = {it.key: json.loads(it.value) for it in model.metadata_props}
    assert told == {
        "classes": sorted(map(str, range(CLASSES))),
        "input_size": SIDE,
        "crop": 1.0,
        "interpolation": "bicubic",
        "color_order": "RGB",
        "value_range": [0, 1],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "nas_version": nas_version(),
        "run": "run",
        "data": "folder:photos",
    }
    for file in ("run/delivered/weights.safetensors", "run/weights.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            assert {key: json.loads(it) for key, it in weights.metadata().items()} == told
        assert list(json.loads(weights_header(file))["__metadata__"]) == list(told)
    assert describe_weights(Path("run/weights.safetensors")).classes == tuple(told["classes"])


def weights_header(file):
    content = Path(file).read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def test_the_card_names_data_accuracy_and_command(trained):
    card = Path("run/delivered/README.md").read_text()
    assert "Tells 12 classes of pictures apart: 0, 1, 10, 11, 2," in card
    assert "| data | folder:photos |" in card
    assert "test images | 100.0 % |" in card
    assert "nas retrain --architecture a.json --weights w.safetensors --data folder:photos" in card
    assert "Not measured yet; `nas bench model.onnx`" in card
    assert {it.name for it in Path("run/delivered").iterdir()} == set(FILES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "evaluate needs MODEL, or --architecture and --weights"),
        (["evaluate", "run/delivered", "--weights", "w.safetensors"], "evaluate needs MODEL, or"),
        (
            ["evaluate", "photos"],
            "photos: holds no model.onnx; a model is an ONNX file, or a folder",
        ),
        (["classify", "gone.onnx", "a.jpg"], "gone.onnx: no such file; a model is an ONNX file"),
        (["classify", "run/delivered", "gone.jpg"], "gone.jpg: no such file"),
        (
            ["classify", "run/delivered", "photos"],
            "photos: is a folder; name its pictures: photos/*",
        ),
        (
            ["classify", "run/delivered", "a.json"],
            "a.json: unreadable image (cannot identify image",
        ),
        (["classify", "a.json", "photos/7"], "photos/7: is a folder"),
        (
            ["classify", "bare.onnx", "photos.parquet"],
            "bare.onnx: its metadata lack 'mean' and 'std'",
        ),
        (
            ["evaluate", "bare.onnx", "--data", "folder:photos"],
            "its metadata lack 'mean' and 'std'",
        ),
        (["evaluate", "w.safetensors"], "w.safetensors: is no ONNX model"),
        (
            ["evaluate", "flat.onnx"],
            "flat.onnx: must take one float32 tensor of images (N, 3, S, S)",
        ),
    ],
)
def test_mistakes_are_one_line(capsys, trained, network, arguments, message):
    if "bare.onnx" in arguments:
        onnx.save(to_onnx(network, (3, SIDE, SIDE)), "bare.onnx")
    if "flat.onnx" in arguments:
        onnx.save(to_onnx(torch.nn.Flatten(), (5, 2, 2)), "flat.onnx")
    assert message in complaint(capsys, *arguments)

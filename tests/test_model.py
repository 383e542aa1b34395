"Backbones, weights, checkpoints and predictions."
import os
import urllib.error
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from crosssuck import model as m
from crosssuck.core import RunFolder, UserError, make_config
from crosssuck.inputs import Batch, eval_batches, load_events
from crosssuck.simulation import tiny_study

TINY = {"backbone": "r2plus1d_tiny", "weights": "none"}


def config(frames=8, px=32, views=2, **model):
    study = tiny_study()
    return make_config({"experiment": "t", "data": {"split_dir": str(study / "split"), "clips": str(study / "clips" / "clips.csv")},
                        "window": {"num_frames": frames, "sample_fps": 5.0, "views": views}, "geometry": {"policy": "squash", "size_px": px},
                        "optim": {"lr": 1e-3, "epochs": 1, "batch_size": 5}, "loader": {"workers": 0}, "model": {**TINY, **model}})


def test_mvit_v2_s_has_the_parameters_of_the_lab():
    with torch.device("meta"):
        model = m.build_model(config(16, 224, backbone="mvit_v2_s"))
    assert m.count_parameters(model) == {"total": 34_231_682, "learning": 34_231_682}


SMALL = {"swin3d_t": (8, 64), "x3d_s": (13, 64), "x3d_m": (8, 64), "slowfast_r50": (8, 64), "mvit_tiny": (8, 32)}
DESIGN = {"mvit_v2_s", "r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t", "x3d_s", "x3d_m", "slowfast_r50", "mvit_tiny", "r2plus1d_tiny"}


def small(name):
    return m.BACKBONES[name].fixed or SMALL.get(name, (4, 32))


def test_the_list_of_the_design_is_there():
    assert set(m.BACKBONES) == DESIGN


@pytest.mark.parametrize("name", sorted(m.BACKBONES))
def test_every_backbone_is_built_with_two_classes_and_either_head(name):
    frames, px = small(name)
    for head in ("linear", "mlp"):
        with torch.device("meta"):
            model = m.build_model(config(frames, px, backbone=name, head=head))
            assert model(torch.zeros(2, 3, frames, px, px)).shape == (2, 2)
        assert not any(p.shape[0] == 400 for p in model.parameters())


def steps(name, clips, n):
    "Move a model n times; the names of the parameters that moved."
    torch.manual_seed(0)
    frames, px = small(name)
    model = m.build_model(config(frames, px, backbone=name)).train()
    for part in model.modules():
        if isinstance(part, torchvision.ops.StochasticDepth):
            part.p = 0.0        # a block that is left out would not move
    before, optimiser = {k: p.detach().clone() for k, p in model.named_parameters()}, torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0)
    for _ in range(n):
        loss = torch.nn.functional.cross_entropy(model(torch.randn(clips, 3, frames, px, px)), torch.arange(clips) % 2)
        optimiser.zero_grad()
        loss.backward()
        assert torch.isfinite(loss) and all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
        optimiser.step()
    return model, [k for k, p in model.named_parameters() if not torch.equal(p, before[k])]


@pytest.mark.parametrize("name", sorted(DESIGN - {"mvit_v2_s"}))
def test_a_step_goes_forward_and_back_through_every_layer(name):
    model, moved = steps(name, 2, 2)      # some blocks begin as their skip: what lies in them moves from the second step on
    still = {k for k, _ in model.named_parameters()} - set(moved)
    assert all(k.startswith("backbone.blocks.3.attn.") and ("rel_pos" in k or "pool_q" in k) for k in still)     # of MViT's last block only the class token is used, which has no place


def test_a_step_of_mvit_v2_s_at_full_size_on_the_cpu():
    "1 x 3 x 16 x 224 x 224, forward, backward and the optimiser's move."
    model, moved = steps("mvit_v2_s", 1, 1)
    assert len(moved) >= len(list(model.parameters())) - 4      # of the last block only the class token is used, which has no place


@pytest.mark.parametrize("name", sorted(m.BACKBONES))
def test_operations_of_a_clip(name):
    "As the design states for MViTv2-S; for the rest, that they are counted and grow with the frames."
    frames, px = small(name)
    flops = m.count_flops(config(frames, px, backbone=name))
    if name == "mvit_v2_s":
        assert flops == pytest.approx(128.5e9, rel=0.005)
    else:
        more = m.count_flops(config(frames * 2, px, backbone=name))
        assert 1.5 * flops < more < 3.6 * flops


@pytest.mark.parametrize("name", sorted(m.BACKBONES))
def test_stages_cover_the_backbone_and_freeze_from_the_input_on(name):
    frames, px = small(name)
    stages = m.BACKBONES[name].stages
    with torch.device("meta"):
        models = [m.build_model(config(frames, px, backbone=name, freeze=k)) for k in range(len(stages) + 1)]
    counts = [m.count_parameters(model)["learning"] for model in models]
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == len(counts)
    left = {k for k, p in models[-1].backbone.named_parameters() if p.requires_grad}
    assert all(k.startswith(("blocks.5.", "net.blocks.5.", "net.blocks.6.")) for k in left), left     # X3D's and SlowFast's heads have layers of their own
    assert all(p.requires_grad for p in models[0].parameters())


def test_frozen_stages_do_not_move_and_the_rest_does():
    torch.manual_seed(0)
    model = m.build_model(config(backbone="mc3_18", freeze=2)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.nn.functional.cross_entropy(model(torch.randn(2, 3, 8, 32, 32)), torch.tensor([0, 1])).backward()
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3).step()
    moved = {k.split(".")[1] for k, v in model.state_dict().items() if not torch.equal(v, before[k]) and k.startswith("backbone")}
    assert moved == {"layer2", "layer3", "layer4"}      # stem and layer1 stay, batch statistics too
    with pytest.raises(UserError, match="model.freeze: is 9, mc3_18 has 5 stages; give 0 to 5"):
        m.build_model(config(backbone="mc3_18", freeze=9))


def test_x3d_gives_logits_in_evaluation_too():
    "PyTorchVideo's own answers with a softmax there, whose rows sum to 1."
    torch.manual_seed(0)
    out = m.build_model(config(13, 64, backbone="x3d_s")).eval()(torch.randn(2, 3, 13, 64, 64))
    assert not torch.allclose(out.sum(1), torch.ones(2), atol=1e-3)
    net = m.x3d(m.InputSpec(13, 64, (0.45,) * 3, (0.225,) * 3)).eval()
    assert not torch.allclose(net(torch.randn(1, 3, 13, 64, 64)).sum(1), torch.ones(1), atol=1e-3)


def test_slowfast_gets_every_frame_and_a_quarter_of_them():
    seen = []

    class Net(torch.nn.Module):
        def forward(self, ways):
            seen.extend(ways)
    video = torch.arange(32.0).view(1, 1, 32, 1, 1)
    m.TwoSpeeds(Net())(video)
    assert seen[0].flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31] and torch.equal(seen[1], video)     # as PyTorchVideo's weights were trained


def test_fused_attention_is_torchvisions():
    "In float64, every output and every gradient of the small MViT; then one block of MViTv2-S with its own shapes, in float32."
    torch.manual_seed(0)
    spec = m.InputSpec(8, 64, (0.45,) * 3, (0.225,) * 3)
    plain, fused = m.mvit_tiny(spec).double().eval(), m.mvit_tiny(spec).double().eval()
    fused.load_state_dict(plain.state_dict())
    assert m.fuse_attention(fused) == 4 and set(fused.state_dict()) == set(plain.state_dict())
    video = torch.randn(2, 3, 8, 64, 64).double()
    outs = [net(video) for net in (plain, fused)]
    for out in outs:
        (out * torch.linspace(-1, 1, 128)).sum().backward()
    assert torch.allclose(*outs, atol=1e-12)
    for (k, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-10), k
    with torch.no_grad():       # it would notice a wrong distance
        fused.blocks[0].attn.rel_pos_h.copy_(fused.blocks[0].attn.rel_pos_h.flip(0))
        assert not torch.allclose(fused(video), outs[0], atol=1e-6)


@pytest.mark.parametrize("block", [0, 1, 14])
def test_fused_attention_of_mvit_v2_s(block):
    torch.manual_seed(0)
    net = torchvision.models.get_model("mvit_v2_s", weights=None)
    attn, grid = net.blocks[block].attn.eval(), {0: (8, 28, 28), 1: (8, 28, 28), 14: (8, 14, 14)}[block]      # a smaller grid: the tables are interpolated
    tokens = torch.randn(1, 1 + grid[0] * grid[1] * grid[2], attn.embed_dim)
    with torch.no_grad():
        a, new = attn(tokens, grid)
        assert m.fuse_attention(attn) == 1
        b, same = attn(tokens, grid)
    assert new == same and torch.allclose(a, b, atol=1e-4)


def test_attention_is_fused_unless_the_config_says_plain():
    kinds = [{type(x.attn).__name__ for x in m.build_model(config(backbone="mvit_tiny", attention=a)).backbone.blocks} for a in ("fused", "plain")]
    assert kinds == [{"FusedAttention"}, {"MultiscaleAttention"}]


def test_the_tiny_networks_are_tiny():
    for name in ("r2plus1d_tiny", "mvit_tiny"):
        assert m.count_parameters(m.build_model(config(8, 96, backbone=name)))["total"] < 600_000
    assert m.count_parameters(m.build_model(config()))["total"] <= 500_000


def test_the_input_comes_with_the_weights():
    mvit, r3d, swin, x3d = (m.input_spec(config(16, 224, backbone=n)) for n in ("mvit_v2_s", "r3d_18", "swin3d_t", "x3d_m"))
    assert (x3d.mean, x3d.std) == ((0.45,) * 3, (0.225,) * 3)
    assert (mvit.mean, mvit.std) == ((0.45,) * 3, (0.225,) * 3)
    assert (r3d.mean, r3d.std) == ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
    assert swin.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(("changes", "words"), [
    ({"frames": 8, "px": 224, "backbone": "mvit_v2_s"}, "mvit_v2_s takes 16 frames of 224 px, the config gives 8 of 224 px"),
    ({"frames": 16, "px": 112, "backbone": "mvit_v2_s"}, "the config gives 16 of 112 px"),
    ({"weights": "kinetics400"}, "r2plus1d_tiny has no kinetics400 weights"),
    ({"backbone": "mvit_tiny", "px": 40}, "mvit_tiny cannot take 8 frames of 40 px"),
    ({"backbone": "resnet"}, "'resnet' is no backbone; choose from mvit_v2_s"),
    ({"backbone": "slowfast_r50", "frames": 6, "px": 64}, "slowfast_r50 cannot take 6 frames of 64 px"),
    ({"backbone": "x3d_s", "px": 24}, "X3D cannot take 24 px"),
])
def test_a_config_that_disagrees_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        m.build_model(config(**changes))


def test_what_departs_is_said_aloud():
    notes = m.input_notes(config(16, 224, backbone="r3d_18", weights="kinetics400"))
    assert "trained on 112 px; this config feeds 224 px" in notes[0] and "16 frames at 15 a second (1.07 s); this config feeds 16 at 5 (3.20 s)" in notes[1]
    assert "32 frames at 15 a second" in m.input_notes(config(16, 224, backbone="slowfast_r50", weights="kinetics400"))[0]
    as_trained = config(16, 224, backbone="mvit_v2_s", weights="kinetics400")
    assert m.input_notes(replace(as_trained, window=replace(as_trained.window, sample_fps=7.5))) == []
    assert "frozen with random weights" in m.input_notes(config(freeze="backbone"))[0] and "frozen" in m.input_notes(config(freeze=2))[0]


@pytest.mark.parametrize(("device", "capability", "amp", "dtype", "scaler"), [
    ("cpu", None, True, None, False), ("cuda", (6, 1), True, None, False), ("cuda", (7, 0), True, torch.float16, True),
    ("cuda", (7, 5), True, torch.float16, True), ("cuda", (8, 0), True, torch.bfloat16, False), ("cuda", (9, 0), True, torch.bfloat16, False),
    ("cuda", (12, 0), True, torch.bfloat16, False), ("cuda", (8, 0), False, None, False)])
def test_device_and_precision(device, capability, amp, dtype, scaler):
    machine = m.choose_machine(device, amp=amp, capability=capability)
    assert (machine.dtype, machine.scaler) == (dtype, scaler)


def test_no_autocast_on_a_cpu():
    with m.choose_machine("cpu").autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("version", ["2.1.2+cu121", "1.13.1", "2.3.0"])
def test_an_older_torch_is_refused(version):
    with pytest.raises(UserError, match="is too old, 2.4 is needed"):
        m.need_torch(version)


def test_a_newer_torch_is_not():
    for version in ("2.4.0", "2.10.0+cu128", "3.0.0a1"):
        m.need_torch(version)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")
    monkeypatch.setattr(m.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("CROSSSUCK_ROOT", str(tmp_path / "project"))
    return tmp_path


def test_without_a_network_the_error_says_what_to_fetch(no_network):
    study_config = config(16, 224, backbone="mvit_v2_s", weights="kinetics400")
    with pytest.raises(UserError) as e:
        m.build_model(study_config)
    words = str(e.value)
    assert "mvit_v2_s-ae3be167.pth" in words and "https://download.pytorch.org/models/" in words and "weights/" in words and "\n" not in words
    assert not [p for p in no_network.rglob("*") if p.is_file()]


@pytest.mark.parametrize("place", ["torch/hub/checkpoints", "project/weights"])
def test_weights_of_the_same_shape_are_loaded_from_either_folder(no_network, place):
    torch.manual_seed(1)
    kinetics = torchvision.models.get_model("mc3_18", weights=None).state_dict()
    assert kinetics["fc.weight"].shape == (400, 512)
    (no_network / place).mkdir(parents=True)
    torch.save(kinetics, no_network / place / "mc3_18-a90a0ba3.pth")
    model = m.build_model(config(backbone="mc3_18", weights="kinetics400"))
    state = model.backbone.state_dict()
    assert all(torch.equal(state[k], v) for k, v in kinetics.items() if not k.startswith("fc."))
    assert model.head[-1].weight.shape == (2, 512)


def test_pytorchvideos_weights_are_loaded_from_their_own_kind_of_file(no_network):
    torch.manual_seed(1)
    kinetics = m.x3d(m.InputSpec(13, 160, (0.45,) * 3, (0.225,) * 3)).state_dict()
    place = no_network / "project" / "weights"
    place.mkdir(parents=True)
    torch.save({"model_state": kinetics}, place / "X3D_S.pyth")
    state = m.build_model(config(8, 64, backbone="x3d_s", weights="kinetics400")).backbone.state_dict()
    assert all(torch.equal(state[k], v) for k, v in kinetics.items() if not k.startswith("blocks.5.proj"))
    slow = m.slowfast_r50(m.InputSpec(32, 224, (0.45,) * 3, (0.225,) * 3)).net.state_dict()
    torch.save({"model_state": slow}, place / "SLOWFAST_8x8_R50.pyth")
    state = m.build_model(config(8, 64, backbone="slowfast_r50", weights="kinetics400")).backbone.net.state_dict()
    assert all(torch.equal(state[k], v) for k, v in slow.items() if "proj" not in k)
    with pytest.raises(UserError, match="fetch https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/X3D_M.pyth"):
        m.build_model(config(8, 64, backbone="x3d_m", weights="kinetics400"))


def test_weights_of_another_network_or_half_a_file_are_refused(no_network):
    place = no_network / "project" / "weights"
    place.mkdir(parents=True)
    torch.save({"fc.weight": torch.zeros(400, 512)}, place / "mc3_18-a90a0ba3.pth")
    with pytest.raises(UserError, match="entries do not fit the model"):
        m.build_model(config(backbone="mc3_18", weights="kinetics400"))
    (place / "mc3_18-a90a0ba3.pth").write_bytes(b"PK" + b"\0" * 900)
    with pytest.raises(UserError, match="mc3_18-a90a0ba3.pth: not a readable checkpoint"):
        m.build_model(config(backbone="mc3_18", weights="kinetics400"))


def test_a_download_is_held_against_the_hash_in_its_name(tmp_path):
    import hashlib
    (tmp_path / "source").mkdir()
    data = b"weights" * 1000
    for name, good in {f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth": True, "net-00000000.pth": False}.items():
        (tmp_path / "source" / name).write_bytes(data)
        target = tmp_path / "cache" / name
        if good:
            assert m.fetch((tmp_path / "source" / name).as_uri(), target).read_bytes() == data
        else:
            with pytest.raises(UserError, match="arrived damaged"):
                m.fetch((tmp_path / "source" / name).as_uri(), target)
            assert not target.exists()


def test_a_frozen_backbone_does_not_move():
    torch.manual_seed(0)
    model = m.build_model(config(backbone="mc3_18", freeze="backbone")).train()   # it has batch statistics
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model(torch.randn(2, 3, 8, 32, 32)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert {k.split(".")[0] for k, p in model.named_parameters() if p.grad is not None} == {"head"}
    counts = m.count_parameters(model)
    assert counts["learning"] == 512 * 2 + 2 < counts["total"]


def test_a_clip_is_judged_alone():
    torch.manual_seed(0)
    model, video = m.build_model(config()).eval(), torch.randn(4, 3, 8, 32, 32)
    assert torch.allclose(model(video)[:1], model(video[:1]), atol=1e-5)


def test_a_checkpoint_comes_back_as_it_went(tmp_path):
    model = m.build_model(config(head="mlp")).eval()
    path = m.save_checkpoint(tmp_path / "best.ckpt", model, config(head="mlp"), epoch=7, history={"epoch": [1, 2], "val_roc_auc": [None, 0.5]})
    again, its_config, facts = m.load_checkpoint(path)
    video = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(again(video), model(video)) and not again.training
    assert its_config == config(head="mlp") and facts == {"epoch": 7, "history": {"epoch": [1, 2], "val_roc_auc": [None, 0.5]}}
    assert set(torch.load(path, weights_only=True)) == {"model", "config", "epoch", "history"}


def test_a_checkpoint_of_pretrained_weights_needs_no_weight_file(tmp_path, no_network):
    made = config(backbone="mc3_18")
    wants = config(backbone="mc3_18", weights="kinetics400")
    path = m.save_checkpoint(tmp_path / "best.ckpt", m.build_model(made), wants, epoch=1)
    assert m.load_checkpoint(path)[1].model.weights == "kinetics400"


class Trap:
    def __reduce__(self):
        return os.system, ("echo caught > trap.txt",)


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap(), "config": {}}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="bad.ckpt: not a readable checkpoint"):
        m.load_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "trap.txt").exists()


@pytest.mark.parametrize(("content", "words"), [(None, "no such file"), (b"", "not a readable checkpoint"), ({"weights": 1}, "holds no 'model' and 'config'")])
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        torch.save(content, path)
    with pytest.raises(UserError, match=words) as e:
        m.load_checkpoint(path)
    assert "x.ckpt" in str(e.value)


FILES = {"a config": b"data: {split_dir: data/split, clips: data/clips.csv}\noptim: {lr: 0.001, epochs: 2}\n", "a table": b"event_idx,behavior\n0,ear\n", "JSON": b'{"model": 1}', "a page": b"<!doctype html>",
         "zip": b"PK\x03\x04" + bytes(40), "numbers": bytes(range(256)), "zeros": bytes(5000), "text": "ähm\n".encode() * 9, "pickle": b"\x80\x04K\x01.", "stack": b"0", "list": b"lI1\na.", "a dot": b"."}


@pytest.mark.parametrize("kind", FILES)
def test_whatever_is_no_checkpoint_is_one_line(tmp_path, kind):
    path = tmp_path / "x.yaml"
    path.write_bytes(FILES[kind])
    with pytest.raises(UserError, match="x.yaml: not a readable checkpoint .*; name a best.ckpt or last.ckpt") as e:
        m.load_checkpoint(path)
    assert "\n" not in str(e.value)


def test_a_list_of_tensors_is_no_checkpoint(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="not a readable checkpoint .a list.; name a best.ckpt"):
        m.load_checkpoint(tmp_path / "x.ckpt")


def test_a_save_that_is_killed_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model = m.build_model(config())
    path = m.save_checkpoint(tmp_path / "last.ckpt", model, config(), epoch=1)

    def half(facts, target):
        target.write_bytes(b"half")
        raise KeyboardInterrupt
    monkeypatch.setattr(m.torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        m.save_checkpoint(path, model, config(), epoch=2)
    monkeypatch.undo()
    assert m.load_checkpoint(path)[2] == {"epoch": 1} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_with_their_name(tmp_path, value):
    model = m.build_model(config())
    with torch.no_grad():
        model.head[-1].weight[0, :3] = value
    path = m.save_checkpoint(tmp_path / "best.ckpt", model, config(), epoch=1)
    with pytest.raises(UserError, match="best.ckpt: 3 of .* weights of 'head.*weight' are no finite numbers; take another") as e:
        m.load_checkpoint(path)
    assert "\n" not in str(e.value)


def test_a_checkpoint_that_its_finished_run_does_not_vouch_for_is_refused(tmp_path):
    model, run = m.build_model(config()), RunFolder(tmp_path)
    m.save_checkpoint(run / "best.ckpt", model, config(), epoch=1)
    run.finish()
    m.load_checkpoint(run / "best.ckpt")
    with torch.no_grad():
        model.head[-1].bias += 1
    m.save_checkpoint(run / "best.ckpt", model, config(), epoch=1)
    for read in (m.load_checkpoint, m.read_tensors):
        with pytest.raises(UserError, match="best.ckpt: its SHA-256 .* differs from the one in DONE"):
            read(run / "best.ckpt")


@pytest.fixture(scope="module")
def val():
    return load_events(config(), "val", spec=m.input_spec(config()))


def test_an_event_is_scored_by_the_mean_of_its_views(val):
    torch.manual_seed(0)
    model = m.build_model(config()).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.head[-1].weight, std=2.0)   # so that the views differ
        rows = [(int(i), *model(b.video[k:k + 1])[0].tolist()) for b in eval_batches(val, config(), views=3) for k, i in enumerate(b.event_idx)]
    table = m.predict(model, eval_batches(val, config(), views=3), val)
    assert table.event_idx.tolist() == val.table.event_idx.tolist() and set(table.n_views) == {3}
    for _, row in table.iterrows():
        logits = np.array([r[1:] for r in rows if r[0] == row.event_idx])
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert np.allclose([row.prob_ear, row.prob_tail], p.mean(0), atol=1e-5) and np.allclose([row.logit_ear, row.logit_tail], logits.mean(0), atol=1e-4)
        assert row.pred_label == ("tail" if p.mean(0)[1] >= 0.5 else "ear") and row.msp == max(row.prob_ear, row.prob_tail)
    wanted = ["clip_id", "true_label", "pred_label", "prob_ear", "prob_tail", "logit_ear", "logit_tail", "msp", "event_idx", "bout_id", "group", "day",
              "camera_id", "video_filename", "n_views", "other_class_overlap_s"]
    assert table.columns.tolist() == wanted
    assert (table.true_label == val.table.behavior).all() and (table.bout_id == val.table.bout_id).all()


def test_an_event_without_a_finite_probability_stops_the_evaluation(val):
    model = m.build_model(config())
    with torch.no_grad():
        model.head[-1].bias[:] = float("nan")
    n, first = len(val), val.table.event_idx[0]
    with pytest.raises(UserError, match=f"no finite probability for {n} of {n} events, the first is event {first}; the weights are damaged"):
        m.predict(model, eval_batches(val, config()), val)


def test_the_order_and_size_of_batches_do_not_matter(val):
    torch.manual_seed(0)
    model = m.build_model(config())
    a = m.predict(model, eval_batches(val, config()), val)
    b = m.predict(model, reversed(list(eval_batches(val, config(), batch_size=3))), val)
    pd.testing.assert_frame_equal(a, b, atol=1e-5)


def test_an_event_that_is_missing_or_foreign_stops_the_evaluation(val):
    model, batches = m.build_model(config()), list(eval_batches(val, config()))
    with pytest.raises(UserError, match=f"events were scored and the split has {len(val)}"):
        m.predict(model, batches[:-1], val)
    with pytest.raises(UserError, match="events were scored"):
        m.predict(model, batches, val.subset(range(len(val) - 1)))
    twice = val.subset([*range(len(val)), 0])
    with pytest.raises(UserError, match="every event must be scored once"):
        m.predict(model, batches, twice)


def test_evaluation_builds_no_graph_and_uses_no_dropout(val):
    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.p, self.seen = torch.nn.Parameter(torch.ones(2)), []

        def forward(self, video):
            self.seen.append((self.training, torch.is_grad_enabled(), (self.p * 2).requires_grad))
            return self.p.repeat(len(video), 1)
    spy = Spy().train()
    table = m.predict(spy, eval_batches(val, config()), val)
    assert set(spy.seen) == {(False, False, False)} and set(table.prob_tail) == {0.5} and set(table.pred_label) == {"tail"}


def test_where_memory_runs_out_the_evaluation_goes_on_with_fewer_clips(val):
    torch.manual_seed(0)
    model = m.build_model(config()).eval()

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.sizes = model, []

        def forward(self, video):
            self.sizes.append(len(video))
            if len(video) > 2:
                raise torch.OutOfMemoryError("full")
            return self.net(video)
    device = Small()
    table = m.predict(device, eval_batches(val, config()), val)
    pd.testing.assert_frame_equal(table, m.predict(model, eval_batches(val, config()), val), atol=1e-6)
    assert device.sizes[0] == 5 and max(device.sizes[1:]) == 2      # it does not try the large size again

    class Full(torch.nn.Module):
        def forward(self, video): raise torch.OutOfMemoryError("full")
    with pytest.raises(UserError, match="does not hold a single clip"):
        m.predict(Full(), eval_batches(val, config()), val, machine=m.choose_machine("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_scores_as_a_cpu_does(val):
    torch.manual_seed(0)
    model = m.build_model(config())
    a = m.predict(model, eval_batches(val, config()), val)
    b = m.predict(model.cuda(), eval_batches(val, config()), val)
    assert np.abs(a.prob_tail - b.prob_tail).max() < 0.02


def test_a_batch_may_be_made_by_hand(val):
    ids = torch.tensor(val.event_idx)
    batch = Batch(torch.zeros(len(ids), 3, 8, 32, 32), torch.tensor(val.label), ids, torch.zeros_like(ids), torch.ones(len(ids)), torch.zeros(len(ids)))
    assert len(m.predict(m.build_model(config()), [batch], val)) == len(val)

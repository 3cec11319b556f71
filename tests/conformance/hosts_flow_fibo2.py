"""FIBO 2, on FLUX.2's autoencoder: from text, edited."""

from diffusers import BriaFibo2Pipeline, BriaFibo2Transformer2DModel
from host import register
from hosts_flow_flux2 import host
from parts_flow import alive, flux2_vae, qwen3_processor, qwen3_vl, scheduler
from parts_video import picture
from tiny import DIM


def fibo2():
    model = BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=3 * DIM,
        injection_layer_ids=(1,),
        perceiver_num_layers=1,
        min_num_gist_tokens=2,
        max_num_gist_tokens=4,
        gist_step=1,
        axes_dims=(4, 4, 4),
        axes_lens=(64, 64, 64),
    )
    pipe = BriaFibo2Pipeline(alive(model), scheduler(), flux2_vae(), qwen3_vl(), qwen3_processor())
    pipe.text_encoder_out_layers = ((0, 1, 2),) * 2
    return pipe


register(host("bria-fibo-2", fibo2), host("bria-fibo-2-edit", fibo2, image=picture))

"""Command lines as people really typed them (paths shortened), by script: what a shell hands on after the script's name."""

TRAIN_NETWORK = {
    "equals signs and quotes mixed": """
        --enable_bucket --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA" --reg_data_dir="REG" --resolution=1024,1024
        --output_dir="OUT" --logging_dir="LOG" --network_alpha="8" --training_comment="comment" --save_model_as=safetensors
        --network_module=networks.lora --network_args "conv_dim=8" "conv_alpha=1" --text_encoder_lr=5e-5 --unet_lr=0.0001
        --network_dim=16 --output_name="NAME" --lr_scheduler_num_cycles="20" --learning_rate="1e-4"
        --lr_scheduler="cosine_with_restarts" --lr_warmup_steps="1067" --train_batch_size="2" --max_train_steps="10670"
        --save_every_n_epochs="1" --mixed_precision="fp16" --save_precision="fp16" --seed="1234" --caption_extension=".txt"
        --cache_latents --optimizer_type="Lion" --clip_skip=2 --keep_tokens="2" --bucket_reso_steps=64 --xformers
        --persistent_data_loader_workers --bucket_no_upscale""",
    "empty regularisation folder, block weights": """
        --enable_bucket --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA" --reg_data_dir="" --resolution=512,512
        --output_dir="OUT" --logging_dir="LOG" --network_alpha="32" --training_comment="comment" --save_model_as=safetensors
        --network_module=networks.lora --network_args "conv_dim=32" "conv_alpha=16" down_lr_weight="0,0,0,0,1,1,1,1,1,1,1,1"
        mid_lr_weight="0" up_lr_weight="1,1,1,1,1,1,1,1,1,1,1,1" --text_encoder_lr=5e-5 --unet_lr=1e-4 --network_dim=128
        --output_name="NAME" --lr_scheduler_num_cycles="10" --learning_rate="0.0001" --lr_scheduler="cosine_with_restarts"
        --train_batch_size="6" --max_train_steps="1112" --save_every_n_epochs="1" --mixed_precision="fp16"
        --save_precision="fp16" --seed="1234" --caption_extension=".txt" --cache_latents --optimizer_type="AdamW8bit"
        --max_train_epochs=10 --clip_skip=2 --keep_tokens="3" --bucket_reso_steps=64 --xformers
        --persistent_data_loader_workers --bucket_no_upscale --multires_noise_iterations="8" --multires_noise_discount="0.3" """,
    "D-Adaptation with small rates": """
        --enable_bucket --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA" --resolution=512,512 --output_dir="OUT"
        --logging_dir="LOG" --network_alpha="1" --save_model_as=safetensors --network_module=networks.lora --text_encoder_lr=5e-5
        --unet_lr=0.0001 --network_dim=8 --output_name="last" --lr_scheduler_num_cycles="1" --learning_rate="0.0001"
        --lr_scheduler="cosine" --lr_warmup_steps="110" --train_batch_size="1" --max_train_steps="1100" --save_every_n_epochs="1"
        --mixed_precision="fp16" --save_precision="fp16" --cache_latents --optimizer_type="DAdaptation" --bucket_reso_steps=64
        --bucket_no_upscale""",
    "network_args twice": """
        --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA" --output_dir="OUT"
        --network_args "down_lr_weight=1,1,1.2,1.2,1,0.1,0.1,1,1,0.75,0.8,0.8" "mid_lr_weight=0.7" --bucket_no_upscale
        --bucket_reso_steps=64 --cache_latents --caption_extension=".txt" --enable_bucket --min_bucket_reso=256
        --max_bucket_reso=2048 --keep_tokens="1" --learning_rate="9.4e-05" --logging_dir="LOG" --lr_scheduler="cosine"
        --lr_scheduler_num_cycles="20" --lr_scheduler_power="0.3" --lr_warmup_steps="238" --max_data_loader_n_workers="0"
        --max_grad_norm="1" --resolution="1024" --max_train_steps="4760" --min_snr_gamma=5 --mixed_precision="bf16"
        --network_alpha="40" --network_args "preset=full" "conv_dim=16" "conv_alpha=10" "algo=lokr" "train_norm=False"
        --network_dim=64 --network_module=lycoris.kohya --multires_noise_iterations="8" """,
    "a shortened option": """
        --network_module "networks.lora" --pretrained_model_name_or_path "MODEL" --dataset_config "DATASETS" --output_dir "OUT"
        --output_name "chinese_painting" --save_model_as safetensors --prior_loss_weight 1.0 --max_train_steps 400
        --max_train_epoch 50 --learning_rate 1e-4 --optimizer_type "AdamW8bit" --xformers --mixed_precision "fp16"
        --cache_latents --gradient_checkpointing --save_every_n_epochs 1""",
    "no rank, no alpha": """
        --pretrained_model_name_or_path="MODEL" --dataset_config="DATASETS" --output_dir="OUT" --output_name="scz"
        --save_model_as=safetensors --prior_loss_weight=1.0 --max_train_steps=1500 --learning_rate=1e-4
        --optimizer_type="AdamW8bit" --mixed_precision="no" --cache_latents --gradient_checkpointing --save_every_n_epochs=3
        --xformers --network_module=networks.lora""",
    "the least there can be": """
        --pretrained_model_name_or_path="MODEL" --dataset_config=DATASETS --network_module=networks.lora --max_train_steps=2000
        --output_dir=OUT --output_name=william2000_5""",
    "a diffusers folder": """
        --pretrained_model_name_or_path=FOLDER --dataset_config=DATASETS --output_dir=OUT --output_name=lxq
        --save_model_as=safetensors --prior_loss_weight=1.0 --max_train_steps=1000 --learning_rate=1e-4
        --optimizer_type="AdamW8bit" --xformers --mixed_precision="fp16" --cache_latents --gradient_checkpointing
        --save_every_n_epochs=1 --network_module=networks.lora""",
}

SDXL_TRAIN_NETWORK = {
    "Adafactor with a fixed rate": """
        --enable_bucket --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA" --resolution="1024,1024" --output_dir="OUT"
        --logging_dir="LOG" --network_alpha="1" --save_model_as=safetensors --network_module=networks.lora --text_encoder_lr=0.0004
        --unet_lr=0.0004 --network_dim=256 --output_name="shodan" --lr_scheduler_num_cycles="10" --no_half_vae
        --learning_rate="0.0004" --lr_scheduler="constant" --train_batch_size="1" --max_train_steps="5200"
        --save_every_n_epochs="1" --mixed_precision="bf16" --save_precision="bf16" --cache_latents --cache_latents_to_disk
        --optimizer_type="Adafactor" --optimizer_args scale_parameter=False relative_step=False warmup_init=False
        --max_data_loader_n_workers="0" --bucket_reso_steps=64 --gradient_checkpointing --xformers --bucket_no_upscale""",
    "another optimizer's arguments": """
        --enable_bucket --pretrained_model_name_or_path="MODEL" --train_data_dir="DATA"     --reg_data_dir="REG"
        --resolution="1024,1024" --output_dir="OUT" --network_module=networks.lora --network_dim=256 --learning_rate="0.0004"
        --optimizer_type="Prodigy" --optimizer_args scale_parameter=False relative_step=False warmup_init=False
        scale_v_pred_loss_like_noise_pred=False --max_train_steps="5200" --mixed_precision="bf16" """,
    "previews and an ending without its dot": """
        --bucket_reso_steps=64 --cache_latents --cache_latents_to_disk --caption_dropout_rate="0.05" --enable_bucket
        --min_bucket_reso=256 --max_bucket_reso=2048 --gradient_checkpointing --learning_rate="3e-05"
        --lr_scheduler="constant_with_warmup" --lr_scheduler_num_cycles="50" --max_data_loader_n_workers="0" --max_grad_norm="1"
        --resolution="1024,1024" --max_train_epochs=50 --max_train_steps="10000" --min_snr_gamma=5 --mixed_precision="fp16"
        --network_alpha="32" --network_dim=32 --network_module=networks.lora --no_half_vae
        --optimizer_args scale_parameter=False relative_step=False warmup_init=False --optimizer_type="Adafactor"
        --output_dir="OUT" --output_name="trained" --pretrained_model_name_or_path="MODEL" --save_every_n_epochs="1"
        --save_model_as=safetensors --save_precision="fp16" --text_encoder_lr=3e-05 --train_batch_size="8"
        --training_comment="3 repeats" --train_data_dir="DATA" --unet_lr=3e-05 --xformers --sample_sampler=euler_a
        --sample_prompts="PROMPTS" --sample_every_n_epochs="1" --sample_every_n_steps="100" --caption_extension="txt" """,
    "a config file under options": """
        --config_file="CONFIG" --zero_terminal_snr --optimizer_args "decouple=True" "weight_decay=0.5" "betas=0.9,0.99"
        "use_bias_correction=False" --lr_scheduler_type="CosineAnnealingLR" --lr_scheduler_args="T_max=30" """,
}

SECTIONED_PRODIGY_TOML = """
[network_arguments]
unet_lr = 0.75
text_encoder_lr = 0.75
network_dim = 16
network_alpha = 16
network_module = "networks.lora"
network_train_unet_only = false
[optimizer_arguments]
learning_rate = 0.75
lr_scheduler = "cosine"
optimizer_type = "Prodigy"
optimizer_args = [ "weight_decay=0.1", "betas=[0.9,0.99]",]
loss_type = "l2"
max_grad_norm = 1.0
[training_arguments]
lowram = true
max_train_epochs = 8
train_batch_size = 3
seed = 42
max_token_length = 225
xformers = false
sdpa = true
min_snr_gamma = 8.0
no_half_vae = true
gradient_checkpointing = true
max_data_loader_n_workers = 8
persistent_data_loader_workers = true
mixed_precision = "fp16"
full_bf16 = false
full_fp16 = true
cache_latents = true
cache_latents_to_disk = true
cache_text_encoder_outputs = false
min_timestep = 0
max_timestep = 1000
prior_loss_weight = 1.0
multires_noise_iterations = 6
multires_noise_discount = 0.3
v_parameterization = false
scale_v_pred_loss_like_noise_pred = false
zero_terminal_snr = false
[saving_arguments]
save_precision = "fp16"
save_model_as = "safetensors"
save_every_n_epochs = 1
save_last_n_epochs = 10
output_name = "name"
"""

SECTIONED_BLOCK_WEIGHTS_TOML = """
[additional_network_arguments]
unet_lr = 0.00025
text_encoder_lr = 5e-5
network_dim = 64
network_alpha = 8
network_module = "networks.lora"
network_args = [ "down_lr_weight=1,1,1,1,1,1,1,1,1,1,1,1", "up_lr_weight=1,1,1,1,1,1,1,1,1,1,1,1", "mid_lr_weight=1",]
[optimizer_arguments]
learning_rate = 0.00025
lr_scheduler = "cosine_with_restarts"
lr_scheduler_num_cycles = 3
lr_warmup_steps = 180
optimizer_type = "AdamW8bit"
optimizer_args = [ "betas=[0.9, 0.999]", "weight_decay=0.01", "eps=1e-08",]
[training_arguments]
max_train_epochs = 5
save_every_n_epochs = 1
save_last_n_epochs = 5
train_batch_size = 2
clip_skip = 2
min_snr_gamma = 5.0
weighted_captions = true
seed = 42
"""

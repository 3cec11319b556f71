"""What a user trains for a checkpoint of their own: latents, trajectories, evaluators and their calibration. It knows
no particular data: prompts, captions and models are passed in."""

"""Who watches an audit from outside its process: Weights & Biases and TensorBoard.

The driver hands what has ended to a process of its own (`monitor.py`, `writer.py`), because W&B takes 40 ms of processor time
a run and may hang. That process writes files and nothing else; where there is a key, `wandb sync` uploads them (`upload.py`).
"""

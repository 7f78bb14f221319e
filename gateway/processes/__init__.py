"""The processes of `assay serve`.

- `parent.py` binds every socket, starts the others and restarts what dies
- `recorder.py` owns the log's store
- `controller.py` does everything slow
- `worker.py` runs the lane
- `control.py` is what controller and workers say to each other through files
"""

"""Configuration: text -> model -> compiled documents, or everything that is wrong with it.

In the order data flows:

- `layout`          where the files of a deployment lie;
- `tree`            YAML -> plain values with the place of each; `issues`: what is wrong, where, and what is allowed;
- `names`, `quantities`   what single values may be; `gateway_file`, `model_file`: what files may hold; `experiment_files`, `policy_files`: the same
                    for what `experiments/` and `policies/` define;
- `validate`        a tree -> a model, every error at its line;
- `compile`         a folder -> manifest and objects, incrementally; `schemas`: the JSON Schema of each file; `plan`: what a change does.
"""

"""What the language allows and an author regrets: rules of our own, in the spirit of Regal.

`assay policy check` tells what is wrong. A linter tells what is right by the language and still a trap, a leak or hard to read. Each rule has
an id, a reason and a way to silence it in one place.

- `run.py`: runs the rules, honours `# lint: ignore`. `subject.py`: what rules look at.
- `traps.py`: conditions that hold too often or too rarely. `reasons.py`: what packages that decide say. `style.py`: how it reads. `tested.py`: tests.
"""

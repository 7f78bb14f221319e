# METADATA
# title: Experiments begin small and stop by themselves
# description: >-
#   Asked when a configuration is read: an experiment that breaks a limit is not put in force. On models of high risk a new version begins
#   with a small share, and a person has to agree before it gets a large one. Every experiment has the guardrails and the breaker asked for.
# custom: {points: [config], mode: dryrun} # dryrun refuses nothing and is recorded; then warn, then enforce
package policy.experiment_limits

limits := data.params.experiment_limits

is_experiment if input.config.kind == "experiment"

default allow := false

allow if input.config.kind == "model"

allow if {
	is_experiment
	may_experiment
	is_watched
	starts_small
	is_attended
}

may_experiment if {
	is_array(limits.never)
	is_string(input.model.name)
	not is_never
}

is_never if input.model.name in limits.never

# Versions that are tried: every arm but the one it is compared with.
treatments contains arm if {
	some arm, _ in input.experiment.arms
	arm != input.experiment.control
}

# Part of all units that a version gets on a step, in millionths. Exposure and shares are whole numbers out of 2**32.
share_ppm(step, arm) := floor(((step.exposure * step.shares[arm]) * 1000000) / (4294967296 * 4294967296))

# A shadow answers nobody: its share reaches no caller.
is_shadow if input.experiment.strategy == "shadow"

is_watched if is_shadow

is_watched if {
	every metric in limits.guardrails {
		has_guardrail(metric)
	}
	is_object(input.experiment.breaker)
}

has_guardrail(metric) if {
	some guardrail in input.experiment.guardrails
	guardrail.metric == metric
}

low_risk if input.model.risk in {"low", "medium"}

starts_small if is_shadow

starts_small if low_risk

starts_small if {
	count(treatments) > 0
	every arm in treatments {
		share_ppm(input.experiment.steps[0], arm) <= limits.first_share_ppm
	}
}

is_attended if is_shadow

is_attended if low_risk

is_attended if {
	count(input.experiment.steps) > 0
	every number, step in input.experiment.steps {
		is_agreed(number, step)
	}
}

is_agreed(_, step) if {
	every arm in treatments {
		share_ppm(step, arm) <= limits.unattended_share_ppm
	}
}

# Somebody has to agree before an earlier step is left.
is_agreed(number, _) if {
	some earlier, step in input.experiment.steps
	earlier < number
	is_string(step.approve)
}

deny contains {"id": "EXPERIMENT-LIMITS-1", "msg": "this model is not experimented with; see `never` in params.yaml"} if {
	is_experiment
	not may_experiment
}

deny contains {"id": "EXPERIMENT-LIMITS-2", "msg": "a breaker or a guardrail that every experiment needs is missing"} if {
	is_experiment
	not is_watched
}

deny contains {"id": "EXPERIMENT-LIMITS-3", "msg": "the first step gives a new version of a high-risk model too large a share"} if {
	is_experiment
	not starts_small
}

deny contains {"id": "EXPERIMENT-LIMITS-4", "msg": "nobody has to agree before a new version of a high-risk model gets a large share"} if {
	is_experiment
	not is_attended
}

# METADATA
# title: Answers are too coarse to copy a model from
# description: >-
#   Callers other than the trusted ones get scores rounded, and few rows a call. A linear model can be read off exactly from as many full
#   scores as it has features; from rounded ones it cannot. What protects other models is the key's rate and the number of rows.
# custom: {points: [request], mode: dryrun} # dryrun refuses nothing and is recorded; then warn, then enforce
package policy.model_protection

# Settings stand in params.yaml, by model. A model that is not there is refused: whoever adds one decides how it is protected.
settings := data.params.model_protection.models[input.model.name]

trusted if input.tenant in data.params.model_protection.trusted

default allow := false

allow if {
	is_set_up
	few_rows
}

is_set_up if {
	is_string(settings.score)
	is_number(settings.digits)
	is_number(settings.rows)
}

few_rows if trusted

few_rows if {
	is_number(input.request.rows)
	input.request.rows <= settings.rows
}

# The gateway rounds before a byte of the reply leaves, or holds the reply back.
obligations contains {"type": "round", "path": settings.score, "digits": settings.digits} if {
	is_string(settings.score)
	is_number(settings.digits)
	not trusted
}

deny contains {"id": "MODEL-PROTECTION-1", "status": 422, "msg": "more rows in one call than this model gives"} if {
	is_set_up
	not few_rows
}

deny contains {"id": "MODEL-PROTECTION-2", "msg": "params.yaml does not say how this model is protected"} if not is_set_up

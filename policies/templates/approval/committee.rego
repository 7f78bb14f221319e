# METADATA
# title: A committee approves what matters
# description: >-
#   A version of a listed model serves only while people of every role of its committee approve it, at least as many people as roles.
#   The shipped rule (how many people a risk needs) stays in force beside it.
# custom: {points: [request], mode: dryrun} # dryrun refuses nothing and is recorded; then warn, then enforce
package policy.committee

# Who has to approve stands in params.yaml, by model. A model that is not listed there needs no committee.
roles := object.get(data.params.committee.models, input.model.name, [])

# `in_force` is the gateway's: it checked signature, dates and revocation before it says true.
people contains approval.person if {
	some approval in input.approvals
	approval.in_force == true
	some role in approval.roles
	role in roles
}

missing contains role if {
	some role in roles
	not has_approved(role)
}

has_approved(role) if {
	some approval in input.approvals
	approval.in_force == true
	role in approval.roles
}

# One person who holds two roles is still one person.
enough_people if count(people) >= count(roles)

default allow := false

allow if {
	count(missing) == 0
	enough_people
}

deny contains {"id": "COMMITTEE-1", "msg": sprintf("nobody approved for `%s`", [role])} if some role in missing

deny contains {"id": "COMMITTEE-2", "msg": "fewer people approved than the committee has roles"} if {
	roles
	count(missing) == 0
	not enough_people
}

# Without its parameters this policy refuses: a lost file must not open it.
deny contains {"id": "COMMITTEE-3", "msg": "params.yaml names no committees"} if not roles

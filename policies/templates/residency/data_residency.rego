# METADATA
# title: Data stays where its owner allows
# description: >-
#   A call goes only to a version that runs in a region its tenant allows. A tenant or a version whose region nobody wrote down is refused.
# custom: {points: [request], mode: dryrun} # dryrun refuses nothing and is recorded; then warn, then enforce
package policy.data_residency

# Both tables stand in params.yaml.
allowed := data.params.data_residency.tenants[input.tenant]

region := data.params.data_residency.runs_in[input.model.name][input.model.version]

default allow := false

allow if stays_inside

stays_inside if region in allowed

deny contains {"id": "DATA-RESIDENCY-1", "msg": "this version runs in a region the tenant does not allow"} if {
	region
	allowed
	not stays_inside
}

deny contains {"id": "DATA-RESIDENCY-2", "msg": "params.yaml does not say where this tenant's data may go"} if not allowed

deny contains {"id": "DATA-RESIDENCY-3", "msg": "params.yaml does not say where this version runs"} if not region

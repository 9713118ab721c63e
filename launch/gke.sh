#!/usr/bin/env bash
set -euo pipefail
usage() {
    cat <<'TEXT'
usage: launch/gke.sh COMMAND [--dry-run] [-- OPTION of mla_jax.main ...]

Runs mla_jax on TPUs of Google Kubernetes Engine, through xpk (pip install xpk).

commands: create  makes a cluster with one TPU slice (set SPOT=1 for a spot one)
          image   builds launch/Dockerfile and pushes it as IMAGE
          run     starts or resumes the run; needs -- --config=... --workdir=gs://BUCKET/...
          logs    follows what process 0 prints
          stop    ends the run with SIGTERM: it saves a checkpoint; run resumes it
          delete  deletes the cluster
--dry-run prints the commands instead, to be read or pasted.

environment: PROJECT, ZONE, CLUSTER  project, zone and name of the cluster (required)
             IMAGE         as REGION-docker.pkg.dev/PROJECT/REPOSITORY/mla_jax:TAG (image and run)
             WORKLOAD      name of the run on the cluster (default: mla-jax)
             ACCELERATOR   default v5litepod-16
             EXTRAS        extras to install in the image (default: tpu,gcs)
             RUN_AS        number of the image's user (default: 1000; 0 is root)
             MAX_RESTARTS  how often a failed or preempted run restarts (default: 20)

example: export PROJECT=my-project ZONE=us-west4-a CLUSTER=mla
         export IMAGE=us-west4-docker.pkg.dev/my-project/mla/mla_jax:1
         launch/gke.sh create && launch/gke.sh image
         launch/gke.sh run -- --config=configs/digits.py --workdir=gs://BUCKET/runs/digits

For a cluster without xpk or without TPUs, use kubectl apply -f launch/job.yaml (see the comment at
the top of that file).
TEXT
}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/perform.sh
source launch/perform.sh
read_command "$@"
needed=(PROJECT ZONE CLUSTER)
case "$command" in
    -h | --help) usage && exit 0 ;;
    image | run) needed+=(IMAGE) ;;
    create | logs | stop | delete) ;;
    *) usage >&2 && exit 2 ;;
esac
for name in "${needed[@]}"; do
    [ -n "${!name:-}" ] || { echo "error: set $name (see --help)" >&2 && exit 2; }
done

workload="${WORKLOAD:-mla-jax}" accelerator="${ACCELERATOR:-v5litepod-16}"
where=(--cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE")
case "$command" in
    create)
        capacity=--on-demand
        [ -z "${SPOT:-}" ] || capacity=--spot
        perform xpk cluster create "${where[@]}" --tpu-type="$accelerator" --num-slices=1 \
            "$capacity"
        ;;
    image)
        perform docker build --file=launch/Dockerfile --build-arg="EXTRAS=${EXTRAS:-tpu,gcs}" \
            --build-arg="RUN_AS=${RUN_AS:-1000}" --tag="$IMAGE" .
        perform docker push "$IMAGE"
        ;;
    run)
        [ "${#options[@]}" -gt 0 ] || { echo "error: give -- --config=..." >&2 && exit 2; }
        # exec: xpk puts the command into a subshell and sends that the signals.  One line: it goes
        # into a YAML block.  Restarts: on a signal, xpk's own rule, and on status 1, as the others
        # end when a process dies; not on 2, a mistake in the options, or 3, a loss not finite.
        perform xpk workload create --workload="$workload" "${where[@]}" \
            --tpu-type="$accelerator" --docker-image="$IMAGE" \
            --max-restarts="${MAX_RESTARTS:-20}" --restart-on-exit-codes=1 \
            --termination-grace-period-seconds=300 \
            --command="exec $(line python -m mla_jax.main --distributed=on "${options[@]}")"
        ;;
    logs)
        perform gcloud container clusters get-credentials "$CLUSTER" --project="$PROJECT" \
            --location="${ZONE%-*}"
        pod="xpk.google.com/workload=$workload,batch.kubernetes.io/job-completion-index=0"
        perform kubectl logs --follow --tail=-1 --container=jax-tpu --selector="$pod"
        ;;
    stop) perform xpk workload delete --workload="$workload" "${where[@]}" ;;
    delete) perform xpk cluster delete "${where[@]}" ;;
esac

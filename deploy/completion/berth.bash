# bash completion of berth(1): goes to /usr/share/bash-completion/completions/berth
# SPDX-License-Identifier: BSD-3-Clause
source <(berth completion bash)

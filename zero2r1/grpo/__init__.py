r"""Group Relative Policy Optimization: paper section 2.1, equations 1 to 3.

For each question q the old policy samples a group of outputs o_1 ... o_G. The policy maximises

    J = E [ 1/G  sum_i  ( min( rho_i A_i,  clip(rho_i, 1 - eps, 1 + eps) A_i )  -  beta KL_i ) ]

    rho_i = pi(o_i|q) / pi_old(o_i|q)                        how far the policy has moved since it sampled
    A_i   = (r_i - mean(r_1 ... r_G)) / std(r_1 ... r_G)     the group is the baseline: no critic
    KL_i  = pi_ref/pi - log(pi_ref/pi) - 1                   Schulman's k3, never negative

Read in this order: ``advantages`` (A_i), ``aggregation`` (the sums, as weights), ``loss`` (the rest), ``batches``
(a rollout becomes mini-batches), ``update`` (one optimizer step), ``trainer`` (the loop).
"""

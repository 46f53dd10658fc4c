//! Dividing a whole number among shares: the method of the largest remainder (Hamilton, Vinton).

/// Divides `total` in proportion to `weights`: each share gets its quota rounded down, and what is then
/// left goes, one each, to the largest remainders; of equal remainders the earlier comes first. So
/// every share is within one of its quota, a weight of 0 gets nothing, and the shares add up to `total`.
///
/// Exact: nothing is rounded but by the method. Without any weight above 0 nobody gets anything.
pub fn largest_remainder(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let quota = |weight: &u64| u128::from(total) * u128::from(*weight);
    // A quota rounded down is at most `total`, so it fits.
    let mut shares: Vec<u64> = weights.iter().map(|w| (quota(w) / sum) as u64).collect();
    let left = (total - shares.iter().sum::<u64>()) as usize;
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|&i| (std::cmp::Reverse(quota(&weights[i]) % sum), i));
    for &i in &by_remainder[..left] {
        shares[i] += 1;
    }
    shares
}

/// The largest total of which no share, in proportion to `weights`, exceeds its capacity, and the index
/// of the share that limits it. Of several that do the first is named. `None` if all weights are 0.
pub fn largest_total(weights: &[u64], capacities: &[u64]) -> Option<(u64, usize)> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    let total = |(&weight, &capacity): (&u64, &u64)| {
        let scaled = u128::from(capacity).saturating_mul(sum);
        u64::try_from(scaled / u128::from(weight)).unwrap_or(u64::MAX)
    };
    let shares = weights.iter().zip(capacities).enumerate().filter(|(_, (weight, _))| **weight > 0);
    shares.map(|(i, share)| (total(share), i)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn remainders_decide_and_ties_go_to_the_first() {
        assert_eq!(largest_remainder(10, &[95, 3, 2]), [10, 0, 0]);
        assert_eq!(largest_remainder(100, &[95, 3, 2]), [95, 3, 2]);
        assert_eq!(largest_remainder(33, &[95, 3, 2]), [31, 1, 1]); // 31.35, 0.99, 0.66
        assert_eq!(largest_remainder(1, &[1, 1]), [1, 0]);
        assert_eq!(largest_remainder(5, &[0, 1, 1, 0]), [0, 3, 2, 0]);
        assert_eq!(largest_remainder(5, &[0, 0]), [0, 0]);
        assert_eq!(largest_remainder(0, &[]), [0; 0]);
        assert_eq!(largest_remainder(u64::MAX, &[u64::MAX, u64::MAX]), [u64::MAX / 2 + 1, u64::MAX / 2]);
    }

    #[test]
    fn the_scarcest_share_limits_the_total() {
        assert_eq!(largest_total(&[1, 1, 1], &[30, 10, 20]), Some((30, 1)));
        assert_eq!(largest_total(&[4, 1], &[30, 10]), Some((37, 0))); // 30 / 0.8 = 37.5
        assert_eq!(largest_total(&[1, 0], &[30, 0]), Some((30, 0)));
        assert_eq!(largest_total(&[1, 1], &[5, 0]), Some((0, 1)));
        assert_eq!(largest_total(&[0], &[5]), None);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_keep_within_one_of_their_quotas(
            total in 0..1u64 << 45,
            weights in proptest::collection::vec(0..1u64 << 40, 1..20),
        ) {
            let shares = largest_remainder(total, &weights);
            let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
            prop_assert_eq!(shares.iter().sum::<u64>(), if sum == 0 { 0 } else { total });
            for (share, weight) in shares.iter().zip(&weights) {
                let (share, quota) = (u128::from(*share) * sum, u128::from(total) * u128::from(*weight));
                prop_assert!(share.abs_diff(quota) < sum.max(1));
            }
        }

        #[test]
        fn the_largest_total_fits_and_the_next_does_not(
            shares in proptest::collection::vec((1..1u64 << 20, 0..1u64 << 30), 1..20),
        ) {
            let (weights, capacities): (Vec<u64>, Vec<u64>) = shares.into_iter().unzip();
            let (total, limit) = largest_total(&weights, &capacities).expect("weights");
            let given = largest_remainder(total, &weights);
            prop_assert!(given.iter().zip(&capacities).all(|(given, capacity)| given <= capacity));
            let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
            let quota = |total: u64| u128::from(total) * u128::from(weights[limit]);
            prop_assert!(quota(total + 1) > u128::from(capacities[limit]) * sum);
        }
    }
}

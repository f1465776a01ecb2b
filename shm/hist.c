/* SPDX-License-Identifier: MIT */
#include "shm/hist.h"

uint64_t hist_total(const uint64_t *counts, uint32_t bits)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < HIST_BUCKETS(bits); i++)
		total += shm_load_relaxed(&counts[i]);
	return total;
}

uint64_t hist_quantile(const uint64_t *counts, uint32_t bits, double fraction)
{
	uint64_t total = hist_total(counts, bits);
	uint64_t rank = (uint64_t)(fraction * (double)total);
	uint64_t seen = 0;

	if (total == 0)
		return 0;
	if (rank >= total)
		rank = total - 1;
	for (uint32_t i = 0; i < HIST_BUCKETS(bits); i++) {
		seen += shm_load_relaxed(&counts[i]);
		if (seen > rank) {
			uint64_t low = hist_bucket_floor(i, bits);
			return low + (hist_bucket_floor(i + 1, bits) - low) / 2;
		}
	}
	return hist_bucket_floor(HIST_BUCKETS(bits) - 1, bits); /* counts moved under us */
}

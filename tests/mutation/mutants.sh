# The mutants of tests/mutation/run.sh: name, file under include/ar, sed expressions (one per line), tests that must notice. Each is a mistake that
# somebody could make. A comment says what the reader might not see.

# Rounding and number formats
mutant half_ties_up numeric/half.hpp 's/rest == half \&\& (q \& 1u)/rest == half/' half_test
mutant half_ties_odd numeric/half.hpp 's/0xFFFu + ((r >> 13) \& 1u)/0x1000u/' half_test
mutant half_overflow numeric/half.hpp 's/if (r >= 0x47800000u) r = 0x7F800000u;.*/;/' half_test
mutant bfloat16_truncates numeric/half.hpp 's/x + 0x7FFFu + ((x >> 16) \& 1u)/x/' half_test
mutant bfloat16_ties_up numeric/half.hpp 's/x + 0x7FFFu + ((x >> 16) \& 1u)/x + 0x8000u/' half_test
mutant small_float_ties_up numeric/small_float.hpp 's/rest > half || (rest == half \&\& (code \& 1u) != 0)/rest >= half/' small_float_test
mutant small_float_wraps numeric/small_float.hpp 's/  if (code > max_code) {/  if (code > max_code + 1) {/' small_float_test
mutant e8m0_bias numeric/small_float.hpp 's/static_cast<std::uint8_t>((x + 0x400000u) >> 23)/static_cast<std::uint8_t>(((x + 0x400000u) >> 23) + 1)/' small_float_test
mutant log2_reach numeric/log2.hpp 's/0x1000000u - mantissa <= reach/0x1000000u - mantissa < reach/' data_types_primitives_test

# Integers: sign, ties, clamp bounds, zero point
mutant scale_sign dtype/int_sym.hpp 's/larger, zero - larger)/zero - larger, larger)/' int_sym_test
mutant scale_tie dtype/int_sym.hpp 's/lane_lt(b, a), larger/lane_le(b, a), larger/' int_sym_test
mutant clamp_high dtype/int_sym.hpp 's/, n - lane_set<F>(1.0f))/, n)/' int_sym_test
mutant clamp_low dtype/int_sym.hpp 's/lane_set<F>(0.0f) - n)/lane_set<F>(1.0f) - n)/' int_sym_test
mutant code_offset dtype/int_sym.hpp 's/return 1 << (bits() - 1);/return (1 << (bits() - 1)) - 1;/' int_sym_test
mutant scale_rounded_once dtype/int_asym.hpp 's/lane_round_to<Scale>(lane_round_to<Range>(range \/ lane_set<F>(max_code())))/lane_round_to<Scale>(range \/ lane_set<F>(max_code()))/' data_types_int_test
mutant zero_point_above dtype/int_asym.hpp 's/lane_round(lane_round_to<promote(Range, Scale)>((zero - lo) \/ s))/& + lane_set<F>(1.0f)/' int_asym_test
mutant zero_point_below dtype/int_asym.hpp 's/lane_round(lane_round_to<promote(Range, Scale)>((zero - lo) \/ s))/& - lane_set<F>(1.0f)/' int_asym_test
mutant zero_point_sign dtype/int_asym.hpp 's/(code - p.zero_point)/(code + p.zero_point)/' int_asym_test
mutant levels dtype/int_asym.hpp 's/static_cast<float>((1 << bits()) - 1)/static_cast<float>(1 << bits())/' int_asym_test

# Row loops: the wrong group, the short last group. The unit's own lane, and the float lane.
mutant group_of_vectors detail/rows-inl.h 's/scale\[first + g\] = plane\[0\]\[g\]/scale[first + g] = plane[0][0]/' data_types_test
mutant group_offset detail/rows-inl.h 's/const std::size_t at = (first + g) \* group, n/const std::size_t at = (first + g) * group + (g > 0 ? 1 : 0), n/' int_sym_test
mutant group_of_floats detail/rows-inl.h 's/scale(band, g) = a.v\[0\]/scale(band, 0) = a.v[0]/' data_types_int_test
mutant given_group detail/rows-inl.h 's/a.v\[0\] = scale\[g\]/a.v[0] = scale[0]/' data_types_int_test
mutant writes_before_looking detail/rows-inl.h 's/if (!representable(t, {lo, hi}, p)) result = errc::not_representable;/;/' int_sym_test

# MX, NVFP4, FP8
mutant mx_exponent detail/scaled_type-inl.h 's/e -= max_exponent;/e -= max_exponent - 1;/' mxfp4_test
mutant mx_scale_bias detail/scaled_type-inl.h 's/: e) + 127))/: e) + 126))/' mxfp4_test
mutant mx_half_up detail/mx_facts.hpp 's/.half_up = true/.half_up = false/' mxfp4_test
mutant saturation detail/scaled_type-inl.h 's/lane_min(lane_abs(y), lane_set<F>(f.grid.max))/lane_abs(y)/' fp8_test mxfp4_test
mutant two_level_reciprocal_once detail/scaled_type-inl.h 's/p.back = lane_select(lane_eq(p.forward, zero), zero, one \/ p.forward);//' data_types_scaled_test
mutant two_level_order detail/scaled_type-inl.h 's/scale = largest \* sixth;/scale = largest \/ lane_set<F>(6.0f);/' nvfp4_test
mutant global_scale detail/scaled_facts.hpp 's/448.0f \* 6.0f/448.0f * 7.0f/' nvfp4_test

# Searches
mutant search_first_wins detail/search-inl.h 's/if (l\[k\] < best.loss)/if (l[k] <= best.loss)/' data_types_search_test
mutant search_step detail/search-inl.h 's/bits == 2 ? 0.01 :/bits == 2 ? 0.02 :/' data_types_search_test
mutant search_importance detail/search-inl.h 's/square : square \* lane_set<F>(group.importance(i))/square : square/' data_types_search_test
mutant search_own_global_scale detail/search-inl.h 's/(how.reference || plain.the_tensor.unset())/(plain.the_tensor.unset())/' data_types_search_test
mutant mirrored_codes detail/search-inl.h 's/lane_min(lane_max(r, low + one), high)/lane_min(lane_max(r, low), high)/' data_types_search_test
mutant importance_spread detail/importance.hpp 's/sum \/ 32.0f/sum \/ 16.0f/' data_types_search_test
mutant column_order detail/cascade-inl.h 's/columns < 8 ? 4 : 32/columns < 8 ? 4 : 8/' data_types_search_test data_types_activations_test

# Packed layouts. A mistake in packing and unpacking alike keeps the round trip; golden words see it.
mutant nibble_order detail/stream_rows.hpp 's/#if AR_HAS_BYTES16/#if 0/' \
  's/code\[i\] | code\[i + 1\] << 4)/code[i + 1] | code[i] << 4)/' 's/code\[i\] = in\[i \/ 2\] \& 15;/code[i + 1] = in[i \/ 2] \& 15;/' \
  's/code\[i + 1\] = in\[i \/ 2\] >> 4;/code[i] = in[i \/ 2] >> 4;/' mxfp4_nibbles_test formats_packs_test
mutant awq_order codec/awq_int32.hpp 's/(i \& 1) << 2 | (i \& 7) >> 1/i \& 7/' 's/(i \& 3) << 1 | (i \& 7) >> 2/i \& 7/' '/^static_assert(awq_stream/d' \
  awq_int32_test formats_packs_test
mutant gptq_v1_zero codec/gptq_int32.hpp 's/return z - 1;/return z;/' 's/: field + 1;/: field;/' gptq_int32_test formats_packs_test
mutant gptq_saturation codec/gptq_int32.hpp 's/if (z == 0) return bits >= 5 \&\& bits <= 7 ? top : 0;/if (z == 0) return top;/' gptq_int32_test formats_packs_test
mutant convert_minus_zero convert.hpp 's/in.offset == 0.0f ? -0.0f : -(in.scale/-(in.scale/' convert_test
mutant ct_sign codec/int8_bytes.hpp 's/, 0x80>/, 0>/' int8_bytes_test formats_packs_test
mutant mlx_bias_sign convert.hpp 's/-0.0f : -(in.scale \* in.offset)/-0.0f : in.scale * in.offset/' convert_test

# The packing kernels of SIMD targets, beside the plain code.
mutant moves_nibbles detail/moves-inl.h 's/1 | 1 << (8 + Bits)/1 << Bits | 1 << 8/' \
  's/hn::And(x, hn::Set(d16(), 0xFF)), hn::ShiftLeft<Bits>(hn::ShiftRight<8>(x))/hn::ShiftLeft<Bits>(hn::And(x, hn::Set(d16(), 0xFF))), hn::ShiftRight<8>(x)/' \
  codec_kernels_test
mutant moves_split detail/moves-inl.h 's/c = hn::InterleaveLower(d8(), low, high)/c = hn::InterleaveLower(d8(), high, low)/' codec_kernels_test
mutant moves_check_of_the_tail detail/moves-inl.h 's/d = hn::LoadU(d8(), p + n - lanes);/d = zero;/' codec_kernels_test
mutant moves_check_of_one_vector detail/moves-inl.h 's/hn::Or(hn::Or(a, b), hn::Or(c, d))/hn::Or(a, d)/' codec_kernels_test
mutant moves_odd_gap detail/moves-inl.h 's/gap = 32 - 4 \* Bits/gap = 31 - 4 * Bits/' codec_kernels_test
mutant moves_odd_shift detail/moves-inl.h 's/hn::OddEven(hn::ShiftRight<4>(x), x)/hn::OddEven(hn::ShiftRight<3>(x), x)/' codec_kernels_test
mutant moves_beyond_the_row detail/moves-inl.h 's/left = Room ? 0 : overlap(planes(), Bits)/left = 0/' codec_kernels_test
mutant moves_second_plane detail/moves-inl.h 's/in + 4 \* Width, i,/in + 2 * Width, i,/' codec_kernels_test
mutant moves_plane_bits detail/moves-inl.h 's/hn::ShiftLeft<From>/hn::ShiftLeft<From - 1>/' codec_kernels_test
mutant moves_rest_of_the_row detail/moves-inl.h 's/(4 \* static_cast<std::size_t>(Bits) \/ sizeof(Word))/static_cast<std::size_t>(Bits)/' codec_kernels_test
mutant moves_rest_of_the_tile detail/moves-inl.h 's/c = r < whole_rows ? whole_cols : 0; c < cols;/c = whole_cols; c < cols;/' codec_kernels_test
mutant moves_order_of_pairs detail/moves-inl.h 's/p + at(2 \* i + 1) \* m.stride)/p + (2 * i + 1) * m.stride)/' codec_kernels_test
mutant moves_transposition detail/moves-inl.h 's/hn::InterleaveLower(d32(), x\[i\], x\[i + 2\])/hn::InterleaveLower(d32(), x[i], x[i + 1])/' codec_kernels_test

# SignRound
mutant step_direction detail/tune_rows.hpp 's/lane_gt(gradient, zero), up, lane_select(lane_lt(gradient, zero), down/lane_gt(gradient, zero), down, lane_select(lane_lt(gradient, zero), up/' signround_test
mutant zero_gradient_steps detail/tune_rows.hpp 's/lane_gt(gradient, zero), up/lane_ge(gradient, zero), up/' signround_test
mutant gradient_mask detail/tune_grid.hpp 's/pass_high(top + (g.clamp == clamp_gradient::closed ? 0.5f : 0.0f))/pass_high(top)/' \
  's/g.whole_zero ? top + 0.5f : top + top \* 0x1p-24f/top/' tune_test
mutant whole_zero detail/tune_grid.hpp 's/whole_zero ? round_ste(zp) : zp;/round_ste(zp);/' gguf_signround_test

# GGUF
mutant q4_0_nibbles detail/gguf_block32-inl.h 's/(code\[i\] \& 15u) | (static_cast<std::uint32_t>(code\[i + 16\] \& 15u) << 4)/(code[i + 16] \& 15u) | (static_cast<std::uint32_t>(code[i] \& 15u) << 4)/' \
  's/code\[i\] = qs\[i\] \& 15;/code[i + 16] = qs[i] \& 15;/' 's/code\[i + 16\] = qs\[i\] >> 4;/code[i] = qs[i] >> 4;/' gguf_blocks_test
mutant q4_k_scale_packing detail/gguf_superblock-inl.h 's/s0 | ((s1 >> 4) << 6)/s0 | ((m1 >> 4) << 6)/' gguf_blocks_test
mutant q3_k_scale_packing dtype/q3_k.hpp 's/>> 4) << 2) | ((s\[j + 8\] >> 4) << 4)/>> 4) << 4) | ((s[j + 8] >> 4) << 2)/' \
  's/>> (2 \* (j >> 2))) \& 3/>> (2 * ((j >> 2 \& 1) << 1 | j >> 3))) \& 3/' gguf_blocks_test
mutant step_rounded_late detail/gguf_superblock-inl.h 's/p.d = lane_round_f16(share_largest(scale, p.scale))/p.d = share_largest(scale, p.scale)/' gguf_blocks_test
mutant importance_ignored detail/gguf_superblock-inl.h 's/w\[i\] = importance\[j \* Sub + i\] \* lane_sqrt/w[i] = lane_sqrt/' gguf_blocks_test
mutant q8_0_levels dtype/q8_0.hpp 's/magnitude \/ lane_set<F>(127.0f);$/magnitude \/ lane_set<F>(128.0f);/' gguf_blocks_test
mutant q4_k_sigma dtype/q4_k.hpp 's/sigma_factor = 2.0f/sigma_factor = 1.0f/' gguf_blocks_test

# Tuned scaled types, quantized data
mutant tuned_range detail/tune_scaled.hpp 's/pass_value = closed ? above(f.grid.max) : f.grid.max;/pass_value = detail::infinity;/' tune_test
mutant tuned_binade detail/tune_scaled.hpp 's/dv \* element \* log - dv \* t \* log/dv * element * log + dv * t * log/' tune_test
mutant input_sign detail/tune_rows.hpp 's/x\[most\] < 0.0f ? -high\[i\] : high\[i\]/high[i]/' tune_test
mutant nan_momentum tune.hpp 's/if (!absent) buffer\[i\] = b;/buffer[i] = b;/' tune_test

# Rotations
mutant table_transposed hadamard.hpp 's/transposed ? h.table_entry(j, i) : h.table_entry(i, j)/h.table_entry(j, i)/' rotation_matrices_test
mutant butterfly_order hadamard.hpp 's/u\[i\] = round(a + b);/u[i] = round(a - b);/' 's/v\[i\] = round(a - b);/v[i] = round(a + b);/' rotation_matrices_test
mutant product_rounded_once hadamard.hpp 's/round(round(sum\[c\]) \/ divisor)/round(sum[c] \/ divisor)/' rotation_matrices_test
mutant paley_sign detail/hadamard_table.hpp 's/i == j ? 1 : chi(i + q - j);/i == j ? 1 : chi(j + q - i);/' rotation_matrices_test
mutant table_of_20 detail/hadamard_table.hpp 's/if (set == hadamard_tables::spinquant) return make(paley::first);//' rotation_matrices_test
mutant sign_bits hadamard.hpp 's/(generator.next() \& 1u) != 0/(generator.next() >> 31) != 0/' rotation_matrices_test

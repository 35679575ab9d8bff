// Steps of gradient descent that stay on orthogonal matrices.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace auto_round::transform {

/// One Cayley step of the n x n matrix `x` against the Euclidean gradient `grad`: momentum <- mu momentum - grad, then along the skew-symmetric part
/// of momentum x^T, by the fixed point Y = x + a / 2 A (x + Y) in five rounds. a = turn / |A|_1, so a step is as long whatever the scale of the loss:
/// `turn` is at most 1, where the fixed point still converges. Where the result has left the orthogonal matrices by more than rounding it is brought
/// back. Source: Li, Fuxin, Todorovic 2020 (Cayley SGD), as SpinQuant uses it, but for the step's length. Float products.
void cayley_step(std::span<float> x, std::span<const float> grad, std::size_t n, double turn, double mu, std::vector<float>& momentum);

/// The reference's step (auto-round 0.16.1, SGDG without momentum): the projected gradient T, then the Q of the QR decomposition of x - lr T, with
/// the signs that LAPACK gives it, the last column turned where the determinant is negative. In double. From the identity it goes to about minus the
/// identity.
void reference_step(std::span<float> x, std::span<const float> grad, std::size_t n, double lr);

/// max |x x^T - I|.
double orthogonality_error(std::span<const float> x, std::size_t n);
/// The nearest orthogonal matrix, for one that is near: Newton's iteration, in double.
void orthonormalize(std::span<float> x, std::size_t n);

}  // namespace auto_round::transform

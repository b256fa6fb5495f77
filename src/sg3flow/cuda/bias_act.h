// bias_act and its gradient on one element.
#pragma once

#include "launch.h"
#include "types.h"

namespace sg3 {

// clamp(gain * lrelu(x)); NaN stays NaN.
template <class Acc>
SG3_DEVICE Acc activate(Acc v, Acc slope, Acc gain, Acc clamp) {
    v = (v > Acc(0) ? v : v * slope) * gain;
    if (clamp < Acc(0)) return v;
    return v > clamp ? clamp : (v < -clamp ? -clamp : v);
}

// grad times the slope at the input that gave y; 0 where y was clamped.
template <class Acc>
SG3_DEVICE Acc activate_grad(Acc grad, Acc y, Acc slope, Acc gain, Acc clamp) {
    if (clamp >= Acc(0) && (y >= clamp || y <= -clamp)) return Acc(0);
    return (y > Acc(0) ? grad : grad * slope) * gain;
}

// The activation or, where `grad` is given, its gradient, of one element. `x` is the
// result y for the gradient.
template <class T>
SG3_DEVICE T bias_act_element(const Sg3BiasAct& op, T x, T grad, Sum<T> bias) {
    using Acc = Sum<T>;
    const Acc slope = static_cast<Acc>(op.slope), gain = static_cast<Acc>(op.gain);
    Acc clamp = static_cast<Acc>(op.clamp);
    T result;
    if (op.grad) {
        // y was rounded to T when it was clamped: the limit must round alike to be met
        if (clamp >= Acc(0)) clamp = rounded<T>(clamp);
        narrow(activate_grad<Acc>(widen(grad), widen(x), slope, gain, clamp), &result);
    } else {
        narrow(activate<Acc>(widen(x) + bias, slope, gain, clamp), &result);
    }
    return result;
}

}  // namespace sg3

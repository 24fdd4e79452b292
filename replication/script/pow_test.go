package script

import (
	"math"
	"math/big"
	"testing"
)

// TestPow compares whole powers with exact arithmetic, others with math.Pow, which
// is good enough on any one processor; powers of ten must be exact.
func TestPow(t *testing.T) {
	for x := -3.75; x < 40; x += 0.37 {
		for n := -40; n <= 40; n++ {
			if got, want := pow(x, float64(n)), exactPower(x, n); got != want {
				t.Errorf("pow(%v, %d) = %v, want %v", x, n, got, want)
			}
		}
		for y := -30.125; x > 0 && y < 30; y += 0.25 {
			got, want := pow(x, y), math.Pow(x, y)
			if d := math.Abs(got-want) / want; !(d < 1e-14) {
				t.Errorf("pow(%v, %v) = %v, want about %v: off by %.1e", x, y, got, want, d)
			}
		}
	}
	ten := []float64{1, 1e1, 1e2, 1e5, 1e15, 1e22, 1e23, 1e100, 1e200, 1e300, 1e308}
	for _, want := range ten {
		n := math.Round(math.Log10(want))
		if got := pow(10, n); got != want {
			t.Errorf("pow(10, %v) = %v", n, got)
		}
	}
	for n, want := range map[float64]float64{-1: 1e-1, -7: 1e-7, -100: 1e-100, -308: 1e-308} {
		if got := pow(10, n); got != want {
			t.Errorf("pow(10, %v) = %v, want %v", n, got, want)
		}
	}
	inf, nan := math.Inf(1), math.NaN()
	for _, c := range [][3]float64{
		{0, 0, 1}, {nan, 0, 1}, {1, nan, 1}, {nan, 2, nan}, {2, nan, nan}, {0, 3, 0}, {0, -3, inf}, {0, -2, inf}, {math.Copysign(0, -1), -3, -inf},
		{inf, 2, inf}, {inf, -2, 0}, {-inf, 3, -inf}, {-inf, 2, inf}, {-1, inf, 1}, {2, inf, inf}, {0.5, inf, 0}, {2, -inf, 0}, {-8, 1.0 / 3, nan},
		{2, 1e300, inf}, {2, -1e300, 0}, {0.5, 1e300, 0}, {-1, 1e300, 1}, {2, 1024, inf}, {2, -1074, math.SmallestNonzeroFloat64}, {-2, 3, -8},
	} {
		got := pow(c[0], c[1])
		if got != c[2] && !(math.IsNaN(got) && math.IsNaN(c[2])) || math.Signbit(got) != math.Signbit(c[2]) && !math.IsNaN(got) {
			t.Errorf("pow(%v, %v) = %v, want %v", c[0], c[1], got, c[2])
		}
	}
}

func exactPower(x float64, n int) float64 {
	p := new(big.Float).SetPrec(4000).SetInt64(1)
	factor := new(big.Float).SetPrec(4000).SetFloat64(x)
	for i := 0; i < max(n, -n); i++ {
		p.Mul(p, factor)
	}
	if n < 0 {
		p.Quo(new(big.Float).SetPrec(4000).SetInt64(1), p)
	}
	f, _ := p.Float64()
	return f
}

package script

import "math"

// pow is x to the power of y, the same on every processor: each product stands in
// an explicit conversion, so that no compiler fuses it with an addition, and
// exponential and logarithm are written out, since Go takes assembly for its own
// on some processors (decisions.md 9). Whole exponents come by squaring, with twice
// the precision on the way; others are good to about 1e-15.
func pow(x, y float64) float64 {
	switch {
	case y == 0 || x == 1:
		return 1
	case y == 1:
		return x
	case math.IsNaN(x) || math.IsNaN(y):
		return math.NaN()
	case math.IsInf(y, 0):
		return powInfinite(x, y)
	case x == 0 || math.IsInf(x, 0):
		return powEdge(x, y)
	case y == 0.5:
		return math.Sqrt(x) // exactly rounded everywhere
	}
	whole, fraction := math.Modf(math.Abs(y))
	if fraction != 0 && x < 0 {
		return math.NaN()
	}
	if whole >= 1<<63 {
		// Even, and beyond all results that are neither 0, 1 nor infinite.
		switch {
		case x == -1:
			return 1
		case (math.Abs(x) < 1) == (y > 0):
			return 0
		}
		return math.Inf(1)
	}
	result := 1.0
	if fraction != 0 {
		if fraction > 0.5 {
			fraction, whole = fraction-1, whole+1
		}
		result = exponential(float64(fraction * logarithm(x)))
	}
	return powWhole(x, int64(whole), result, y < 0)
}

// powWhole is result * x^n, or its inverse.
func powWhole(x float64, n int64, result float64, inverse bool) float64 {
	// The fraction and its exponent apart, so that nothing overflows on the way.
	exponent := 0
	fraction, step := math.Frexp(x)
	product, square := pair{result, 0}, pair{fraction, 0}
	for ; n != 0; n >>= 1 {
		if step < -1<<12 || step > 1<<12 {
			exponent += step
			break
		}
		if n&1 == 1 {
			product = product.times(square)
			exponent += step
		}
		square = square.times(square)
		step <<= 1
		if square.high < 0.5 {
			square.high, square.low = float64(square.high*2), float64(square.low*2)
			step--
		}
	}
	if inverse {
		return math.Ldexp(product.inverse(), -exponent)
	}
	return math.Ldexp(product.high, exponent)
}

// pair is a number of twice the precision, as the sum of two.
type pair struct{ high, low float64 }

func (a pair) times(b pair) pair {
	p, e := exactProduct(a.high, b.high)
	e += float64(a.high*b.low) + float64(a.low*b.high)
	high := p + e
	return pair{high, e - (high - p)}
}

// inverse is 1/a, rounded.
func (a pair) inverse() float64 {
	q := 1 / a.high
	p, e := exactProduct(q, a.high)
	rest := ((1 - p) - e) - float64(q*a.low)
	return q + float64(q*rest)
}

// exactProduct is a*b as a sum without an error, by Dekker.
func exactProduct(a, b float64) (p, e float64) {
	ah, al := halves(a)
	bh, bl := halves(b)
	p = float64(a * b)
	e = ((float64(ah*bh) - p) + float64(ah*bl) + float64(al*bh)) + float64(al*bl)
	return p, e
}

func halves(a float64) (high, low float64) {
	c := float64(134217729 * a) // 2^27 + 1
	high = c - (c - a)
	return high, a - high
}

func powInfinite(x, y float64) float64 {
	switch {
	case x == -1:
		return 1
	case (math.Abs(x) < 1) == math.IsInf(y, 1):
		return 0
	}
	return math.Inf(1)
}

// powEdge is pow of 0 and of infinity.
func powEdge(x, y float64) float64 {
	odd := math.Abs(y) < 1<<53 && math.Mod(y, 2) != 0 && y == math.Trunc(y)
	size := 0.0
	if (x == 0) == (y < 0) {
		size = math.Inf(1)
	}
	if odd && math.Signbit(x) {
		return -size
	}
	return size
}

// ln2 in two parts: the product of the first with any exponent is exact.
const (
	ln2High = 6.93147180369123816490e-01
	ln2Low  = 1.90821492927058770002e-10
)

// logarithm of x > 0: x = 2^k * m, ln m by the series of the inverse hyperbolic
// tangent of (m-1)/(m+1).
func logarithm(x float64) float64 {
	m, k := math.Frexp(x)
	if m < math.Sqrt2/2 {
		m, k = float64(m*2), k-1
	}
	s := (m - 1) / (m + 1)
	square := float64(s * s)
	sum := 0.0
	for n := 23; n >= 3; n -= 2 {
		sum = float64(square * (1/float64(n) + sum))
	}
	series := float64(2*s) + float64(float64(2*s)*sum)
	return float64(float64(k)*ln2High) + (series + float64(float64(k)*ln2Low))
}

// exponential of |x| < 1000: x = k*ln 2 + r, e^r by its series.
func exponential(x float64) float64 {
	k := math.RoundToEven(x / math.Ln2)
	r := (x - float64(k*ln2High)) - float64(k*ln2Low)
	sum := 1.0
	for n := 17; n >= 1; n-- {
		sum = 1 + float64(float64(r*sum)/float64(n))
	}
	return math.Ldexp(sum, int(k))
}

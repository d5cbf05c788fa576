//! Money in minor units. Never a float, never rounded.

use std::fmt;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// An ISO 4217 currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(iso_currency::Currency);

/// Why an amount or a currency is not taken.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum MoneyError {
    /// Not a code of ISO 4217.
    #[error("`{0}` is not a currency code of ISO 4217")]
    UnknownCurrency(String),
    /// More decimal places than the currency has: we refuse to round somebody's money.
    #[error("{0} has more decimal places than {1} has; it is not rounded")]
    SubMinor(Decimal, Currency),
    /// Larger than a 64-bit count of minor units.
    #[error("{0} is too large an amount")]
    TooLarge(Decimal),
}

impl Currency {
    /// Parses a code such as `USD`.
    ///
    /// # Errors
    /// [`MoneyError::UnknownCurrency`].
    pub fn new(code: &str) -> Result<Self, MoneyError> {
        iso_currency::Currency::from_code(code).map(Self).ok_or_else(|| MoneyError::UnknownCurrency(code.to_owned()))
    }

    /// The three-letter code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimal places of the minor unit: 2 for dollars, 0 for yen, 3 for dinars.
    #[must_use]
    pub fn exponent(self) -> u32 {
        self.0.exponent().map_or(2, u32::from)
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;

    fn try_from(code: String) -> Result<Self, Self::Error> {
        Self::new(&code)
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.code().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// An amount in the currency's minor unit (cents, yen, fils).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// How many minor units.
    pub minor: i64,
    /// Of which currency.
    pub currency: Currency,
}

impl Money {
    /// From an amount in major units, such as 12.50 dollars.
    ///
    /// # Errors
    /// [`MoneyError::SubMinor`] for 10.005 dollars, [`MoneyError::TooLarge`] past 64 bits.
    pub fn from_major(major: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        let scaled = major
            .checked_mul(Decimal::from(10_i64.pow(currency.exponent())))
            .ok_or(MoneyError::TooLarge(major))?
            .normalize();
        if scaled.scale() > 0 {
            return Err(MoneyError::SubMinor(major, currency));
        }
        let minor = i64::try_from(scaled.mantissa()).map_err(|_| MoneyError::TooLarge(major))?;
        Ok(Self { minor, currency })
    }

    /// The amount in major units.
    #[must_use]
    pub fn to_major(self) -> Decimal {
        Decimal::new(self.minor, self.currency.exponent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_those_of_the_currency_and_nothing_is_rounded() {
        for (text, code, minor) in
            [("12.50", "USD", 1_250), ("1200", "JPY", 1_200), ("1.234", "KWD", 1_234), ("12.500", "USD", 1_250)]
        {
            let money = Money::from_major(text.parse().unwrap(), Currency::new(code).unwrap()).unwrap();
            assert_eq!(money.minor, minor);
            assert_eq!(money.to_major(), text.parse::<Decimal>().unwrap());
        }
        let usd = Currency::new("USD").unwrap();
        assert!(matches!(Money::from_major("10.005".parse().unwrap(), usd), Err(MoneyError::SubMinor(..))));
        assert!(Currency::new("XXZ").is_err());
    }
}

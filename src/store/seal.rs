//! Sealing: secrets and vendors' raw words at rest.

use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::Sha256;
use tandem_contract::Secret;

/// Seals and opens with the installation's master key: XChaCha20-Poly1305 with a random 24-byte nonce in front.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    names: Hmac<Sha256>,
}

/// Sealing or opening failed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The key is not 32 bytes of base64.
    #[error("the master key is not 32 bytes in base64; `tandem keys new` prints one")]
    BadKey,
    /// The text was sealed with another key, for another purpose, or was altered.
    #[error("a stored secret does not open: it was sealed with another master key, or was altered")]
    DoesNotOpen,
}

impl Sealer {
    /// From 32 bytes in base64.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn new(key: &Secret) -> Result<Self, SealError> {
        let bytes = STANDARD.decode(key.expose().trim()).map_err(|_| SealError::BadKey)?;
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| SealError::BadKey)?;
        let names = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&bytes).map_err(|_| SealError::BadKey)?;
        Ok(Self { cipher, names })
    }

    /// A new key in base64.
    #[must_use]
    pub fn new_key() -> Secret {
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        Secret::new(STANDARD.encode(bytes))
    }

    /// A name that nobody guesses who does not know the key, and that is always the same for one purpose: 32 hexadecimal digits.
    #[must_use]
    pub fn name_for(&self, purpose: &str) -> String {
        let mut names = self.names.clone();
        names.update(b"name for ");
        names.update(purpose.as_bytes());
        names.finalize().into_bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seals `plain` for one purpose; it opens for no other.
    #[must_use]
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0_u8; 24];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plain, aad: purpose.as_bytes() };
        let mut sealed = nonce.to_vec();
        // Encryption fails only for messages of more than 256 GB.
        sealed.extend(self.cipher.encrypt(&XNonce::from(nonce), payload).unwrap_or_default());
        sealed
    }

    /// Opens what [`Sealer::seal`] made.
    ///
    /// # Errors
    /// [`SealError::DoesNotOpen`].
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, text) = sealed.split_at_checked(24).ok_or(SealError::DoesNotOpen)?;
        let nonce: [u8; 24] = nonce.try_into().map_err(|_| SealError::DoesNotOpen)?;
        let payload = Payload { msg: text, aad: purpose.as_bytes() };
        self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_with_the_same_key_for_the_same_purpose() {
        let sealer = Sealer::new(&Sealer::new_key()).unwrap();
        let sealed = sealer.seal("intent", b"canary");
        assert!(!sealed.windows(6).any(|window| window == b"canary"));
        assert_eq!(sealer.open("intent", &sealed).as_deref(), Ok(&b"canary"[..]));
        assert_eq!(sealer.open("credentials", &sealed), Err(SealError::DoesNotOpen));
        let other = Sealer::new(&Sealer::new_key()).unwrap();
        assert_eq!(other.open("intent", &sealed), Err(SealError::DoesNotOpen));
        assert!(Sealer::new(&Secret::new("too short")).is_err());
        let name = sealer.name_for("webhooks of pipedrive");
        assert_eq!((name.len(), &name), (32, &sealer.name_for("webhooks of pipedrive")));
        assert!(name != sealer.name_for("webhooks of emr") && name != other.name_for("webhooks of pipedrive"));
    }
}

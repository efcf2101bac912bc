// The OpenID provider of the tests: oidc-provider on loopback, told on its command
// line what it knows. It prints {"issuer": …} and ends when its standard input does.
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const { modules, port, accounts, keys, audiences } = JSON.parse(process.argv[1]);
console.warn = console.info = () => {}; // what it says of settings for development

const require = createRequire(modules);
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

const server = createServer();
server.listen(port, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: [{
      client_id: 'keybroker', application_type: 'native', token_endpoint_auth_method: 'none',
      redirect_uris: ['http://127.0.0.1/callback'], response_types: ['code'],
      grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
      id_token_signed_response_alg: keys[0].alg,
    }, {
      client_id: 'workload', client_secret: 'workload', grant_types: ['client_credentials'],
      redirect_uris: [], response_types: [],
    }],
    pkce: { required: () => true },
    claims: { openid: ['sub'], profile: ['name', 'groups'], email: ['email'] },
    conformIdTokenClaims: false, // scopes' claims stand in the id_token, too
    findAccount: (_, id) => accounts[id] && { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) },
    cookies: { keys: ['for tests'] },
    features: {
      devInteractions: { enabled: true },
      deviceFlow: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx) => (ctx.oidc.client.clientId === 'workload' ? audiences[0] : undefined),
        useGrantedResource: () => true,
        getResourceServerInfo: (_, audience) => ({
          audience, scope: 'api', accessTokenFormat: 'jwt', jwt: { sign: { alg: keys[0].alg } },
        }),
      },
    },
    ttl: { Interaction: 600, Session: 600, Grant: 600, DeviceCode: 600, IdToken: 300, AccessToken: 300, ClientCredentials: 300 },
  });
  server.on('request', provider.callback());
  console.log(JSON.stringify({ issuer }));
});
process.stdin.on('end', () => process.exit()).resume();
